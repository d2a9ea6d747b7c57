"""`olivine chat`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from olivine.runtimes.chat import Chat


@click.command("chat")
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option("--prompt", "-p", help="Answer this and leave; otherwise ask for one line after the other.")
@click.option("--prompt-file", type=click.Path(path_type=Path, dir_okay=False), help="Like --prompt, from a file.")
@click.option("--system", help="What the system message of a chat says; without it there is none.")
@click.option("--raw", is_flag=True, help="Continue the text as it stands, without the chat template.")
@click.option("--max-new-tokens", default=256, show_default=True, type=click.IntRange(min=1))
def command(
    model_dir: Path, prompt: str | None, prompt_file: Path | None, system: str | None, raw: bool, max_new_tokens: int
) -> int:
    """Talk to a model that was built.

    MODEL_DIR is an ONNX folder (answered by onnxruntime-genai) or a Hugging Face folder (by transformers). A model
    without a chat template continues a text: --raw.
    """
    from olivine.paths import is_file
    from olivine.runtimes.chat import open_chat

    if is_file(model_dir):
        raise click.UsageError(f"{model_dir} is a file, and chat opens folders: name it as input_model and build one")
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("--prompt and --prompt-file exclude each other")
    if prompt_file is not None:
        prompt = _read(prompt_file)
    if raw and system is not None:
        raise click.UsageError("--raw continues a text, which has no --system message")
    chat = open_chat(model_dir, lambda sentence: click.echo(f"olivine: {sentence}", err=True))
    before = [{"role": "system", "content": system}] if system is not None else []
    if prompt is None:
        _converse(chat, before, raw=raw, max_new_tokens=max_new_tokens)
    else:
        _answer_once(chat, prompt if raw else [*before, _said(prompt)], max_new_tokens)
    return 0


def _said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


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


def _answer_once(chat: "Chat", question: str | list[dict[str, str]], max_new_tokens: int) -> None:
    if isinstance(question, str):
        _write(question)
    chat.answer(question, max_new_tokens, _write)
    click.echo()


def _converse(chat: "Chat", messages: list[dict[str, str]], *, raw: bool, max_new_tokens: int) -> None:
    while (line := _ask()) is not None:
        if raw:
            chat.answer(line, max_new_tokens, _write)
        else:
            messages.append(_said(line))
            messages.append({"role": "assistant", "content": chat.answer(messages, max_new_tokens, _write)})
        click.echo()


def _ask() -> str | None:
    """One line of the user; None at the end of input or an empty line."""
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    return sys.stdin.readline().strip() or None
