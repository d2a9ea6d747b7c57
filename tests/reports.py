"""A reporter that keeps what a pass said."""


class Told:
    """facts, notes, warnings: what was said; steps: how far each progress was; metrics: those of the last one."""

    def __init__(self):
        self.facts, self.notes, self.warnings, self.steps, self.metrics = {}, [], [], [], {}

    def progress(self, done, total, **metrics):
        self.steps.append(done)
        self.metrics = metrics

    def note(self, message):
        self.notes.append(message)

    def warn(self, message):
        self.warnings.append(message)

    def record(self, **facts):
        self.facts |= facts
