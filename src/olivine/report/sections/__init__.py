"""The sections of a report, one file each: see `olivine.report.section`."""
