"""A file whose text both models read: what may be wrong with it is told without a model and without a tokenizer."""

from dataclasses import dataclass
from pathlib import Path

from olivine import paths
from olivine.config.schema import DataConfig
from olivine.data import check, columns_without_form
from olivine.errors import DataError

_KINDS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class TextFile:
    """A text (.txt, .md), or rows (JSON, JSONL, CSV, Parquet) of which each is a text of its own.

    template: how a row becomes text, else its columns tell. encoding: else UTF-8. sep: what stands between the cells of
    a CSV file, else as its suffix says.
    """

    path: Path
    template: str | None = None
    encoding: str | None = None
    sep: str | None = None

    @property
    def is_one_text(self) -> bool:
        """Whether it has no rows."""
        return self.path.suffix in (".txt", ".md")

    def check(self) -> None:
        """Raise DataError, with the place, for what cannot be read."""
        if self.is_one_text:
            self.whole()
            return
        for problem in check(self.config()):
            raise DataError(str(problem).replace(" in load_dataset_config", ""))

    def whole(self) -> str:
        """The text of a file without rows."""
        try:
            return self.path.read_text(encoding=self.encoding or "utf-8")
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            fix = "" if self.encoding else "; write encoding: and its name, such as cp1252"
            raise DataError(f"{self.path} is not {self.encoding or 'UTF-8'} text{fix}") from None
        except (LookupError, ValueError):
            raise DataError(f"there is no text encoding {self.encoding!r}; cp1252 and utf-16 are some") from None

    def config(self) -> DataConfig:
        """A data config that reads the rows."""
        if self.path.suffix not in _KINDS:
            raise DataError(f"{self.path}: the text must be a .txt, .md, .json, .jsonl, .csv or .parquet file")
        if not paths.is_file(self.path):
            raise DataError(f"the data file '{self.path}' does not exist")
        text = {"text_template": self.template} if self.template is not None else {}
        reading = {key: value for key, value in (("encoding", self.encoding), ("sep", self.sep)) if value is not None}
        files = {"data_name": _KINDS[self.path.suffix], "data_files": str(self.path.absolute())}
        config = DataConfig.model_validate(
            {
                "name": self.path.name,
                "load_dataset_config": {**files, **reading},
                "pre_process_data_config": {
                    "strategy": "line-by-line",
                    "train_on": "all",
                    "max_unanswered": 1.0,  # no config says otherwise
                    **text,
                },
            }
        )
        if columns := columns_without_form(config):
            example = " ".join(f"{{{column}}}" for column in columns[:4])
            raise DataError(
                f"{self.path} has the columns {', '.join(columns)}, which do not tell how a row becomes text; "
                f"write text_template: '{example}', for example"
            )
        return config
