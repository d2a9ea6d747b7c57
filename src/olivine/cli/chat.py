"""`olivine chat`."""

import json
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import columns, say, wrapped

if TYPE_CHECKING:
    from olivine.runtimes.chat import Chat

_NARROW = 60  # columns below which two answers stand one below the other


@click.command("chat")
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option("--prompt", "-p", help="Answer this and leave; otherwise ask for one line after the other.")
@click.option("--prompt-file", type=click.Path(path_type=Path, dir_okay=False), help="Like --prompt, from a file.")
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Answer every line of a file; of JSON lines what stands in 'prompt'.",
)
@click.option(
    "--compare",
    "other_dir",
    metavar="OTHER_DIR",
    type=click.Path(path_type=Path),
    help="Ask a second model the same, and show both answers side by side.",
)
@click.option(
    "--base",
    metavar="MODEL",
    type=click.Path(path_type=Path),
    help="What an adapter adapts; else the folder that it names.",
)
@click.option("--system", help="What the system message of a chat says; without it there is none.")
@click.option("--raw", is_flag=True, help="Continue the text as it stands, without the chat template.")
@click.option("--max-new-tokens", default=256, show_default=True, type=click.IntRange(min=1))
def command(
    model_dir: Path,
    other_dir: Path | None,
    base: Path | None,
    system: str | None,
    raw: bool,
    max_new_tokens: int,
    **asked: Any,
) -> int:
    """Talk to a model that was built.

    MODEL_DIR is an ONNX folder (answered by onnxruntime-genai), or a Hugging Face folder, an adapter or a GGUF file (by
    transformers). A model without a chat template continues a text: --raw. How fast it answers is told on standard
    error.
    """
    flags = {"prompt": "--prompt", "prompt_file": "--prompt-file", "prompts_file": "--prompts"}
    named = [flag for name, flag in flags.items() if asked[name] is not None]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)} exclude each other")
    if raw and system is not None:
        raise click.UsageError("--raw continues a text, which has no --system message")
    prompts = _prompts(**asked)
    folders = [model_dir, *([other_dir] if other_dir is not None else [])]
    talks = [_open(folder, base, system, raw=raw, max_new_tokens=max_new_tokens) for folder in folders]
    if prompts is None:
        _converse(talks)
    else:
        _answer_each(talks, prompts, tells_prompts=asked["prompts_file"] is not None)
    return 0


@dataclass
class _Talk:
    """A model that is asked. messages: what was said so far, where it is a chat."""

    name: str
    chat: "Chat"
    raw: bool
    max_new_tokens: int
    before: list[dict[str, str]]
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, text: str, *, is_shown: bool) -> tuple[str, float]:
        """The answer and the seconds it took; is_shown: each piece as it comes."""
        question = text if self.raw else [*self.before, *self.messages, _said(text)]
        began = time.monotonic()
        answer = self.chat.answer(question, self.max_new_tokens, _write if is_shown else None)
        seconds = time.monotonic() - began
        if not self.raw:
            self.messages += [_said(text), {"role": "assistant", "content": answer}]
        return answer, seconds

    def pace(self, seconds: float) -> str:
        """How fast the last answer was, the reading of the prompt included."""
        n_tokens = self.chat.n_written
        return f"{n_tokens} token{'s' if n_tokens != 1 else ''}, {n_tokens / max(seconds, 1e-9):,.1f} tokens/s"

    def forget(self) -> None:
        """The next question is the first one."""
        self.messages.clear()


def _open(folder: Path, base: Path | None, system: str | None, *, raw: bool, max_new_tokens: int) -> _Talk:
    from olivine.runtimes.chat import open_chat

    before = [{"role": "system", "content": _as_typed(system)}] if system is not None else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries to their callers, which a person who chats is not
        chat = open_chat(folder, lambda sentence: click.echo(f"olivine: {sentence}", err=True), base)
    return _Talk(str(folder), chat, raw, max_new_tokens, before)


def _as_typed(text: str) -> str:
    """What was typed, as text: where the locale says ASCII, Python hands bytes over that it could not read."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _prompts(prompt: str | None, prompt_file: Path | None, prompts_file: Path | None) -> list[str] | None:
    """What is asked, in order; None where a person asks."""
    if prompts_file is not None:
        return list(_lines(prompts_file))
    if prompt_file is not None:
        return [_read(prompt_file)]
    return [_as_typed(prompt)] if prompt is not None else None


def _lines(path: Path) -> Iterator[str]:
    """The prompts of a file: its lines, or of JSON lines the texts under `prompt`."""
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        if path.suffix.lower() not in (".jsonl", ".ndjson"):
            yield line
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise click.UsageError(f"{path}:{number} is no JSON") from None
        text = row.get("prompt") if isinstance(row, dict) else row
        if not isinstance(text, str):
            raise click.UsageError(f"{path}:{number} has no text under 'prompt'")
        yield text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not UTF-8 text") from None


def _write(text: str) -> None:
    click.echo(text, nl=False)
    sys.stdout.flush()


def _answer_each(talks: Sequence[_Talk], prompts: Sequence[str], *, tells_prompts: bool) -> None:
    """Each prompt by itself: none is part of the chat of the one before."""
    for prompt in prompts:
        if tells_prompts:
            say(f"> {prompt}", indent=2, bold=True)
        elif talks[0].raw and len(talks) == 1:
            _write(prompt)
        _answer(talks, prompt)
        for talk in talks:
            talk.forget()


def _converse(talks: Sequence[_Talk]) -> None:
    while (line := _ask()) is not None:
        _answer(talks, line)


def _answer(talks: Sequence[_Talk], prompt: str) -> None:
    """Write the answer as it comes; those of two models when both are there."""
    if len(talks) == 1:
        _, seconds = talks[0].ask(prompt, is_shown=True)
        click.echo()
        click.secho(talks[0].pace(seconds), err=True, dim=True)
        return
    told = [talk.ask(prompt, is_shown=False) for talk in talks]
    names = [f"{talk.name} ({talk.pace(seconds)})" for talk, (_, seconds) in zip(talks, told, strict=True)]
    click.echo("\n".join(_side_by_side(names, [answer for answer, _ in told])))


def _side_by_side(names: Sequence[str], texts: Sequence[str]) -> Iterator[str]:
    """Two answers in columns, or one below the other where there is no room."""
    from rich.cells import set_cell_size

    width = columns() or 100
    if width < _NARROW:
        for name, text in zip(names, texts, strict=True):
            yield from (wrapped(f"{name}:", width), text, "")
        return
    room = (width - 3) // 2
    blocks = [[*_folded(name, room), "-" * room, *_folded(text, room)] for name, text in zip(names, texts, strict=True)]
    heads = [block.index("-" * room) for block in blocks]
    blocks = [[""] * (max(heads) - head) + block for head, block in zip(heads, blocks, strict=True)]
    for place in range(max(map(len, blocks))):
        left, right = (block[place] if place < len(block) else "" for block in blocks)
        yield f"{set_cell_size(left, room)} | {right}".rstrip()
    yield ""
    if len(set(texts)) == 1:
        yield "both answer the same"


def _folded(text: str, width: int) -> list[str]:
    """Lines of that width; a letter of Chinese or Japanese takes two columns."""
    from rich.cells import chop_cells

    return [
        line
        for part in text.splitlines() or [""]
        for words in textwrap.wrap(part, width, break_long_words=False) or [""]
        for line in chop_cells(words, width) or [""]
    ]


def _ask() -> str | None:
    """One line of the user; None at the end of input or an empty line."""
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    return _as_typed(sys.stdin.readline()).strip() or None
