"""The answer in what a model wrote, without what a template puts round it."""

from collections.abc import Sequence

from olivine.data import Example


def bare(text: str, example: Example, special: Sequence[str]) -> str:
    """The part of the text that answers: behind the lead of the example's template, before its tail.

    text: what was generated, special tokens included, as leads and tails may be made of them; the answer has none.
    A model that leaves the lead out answers from its first word on.
    """
    lead, tail = _last_line(example.lead), example.tail.strip()
    answer = text.partition(lead)[2] if lead and lead in text else text
    if tail and tail not in example.label:
        answer = answer.partition(tail)[0]
    for token in special:
        answer = answer.replace(token, "")
    return answer


def _last_line(lead: str) -> str:
    """What stands directly before an answer: a model may fill the lines before it in its own way."""
    lines = [line.strip() for line in lead.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def special_tokens(tokenizer: object) -> list[str]:
    """Every special token of a tokenizer, longest first."""
    named = [str(token) for token in getattr(tokenizer, "all_special_tokens", ())]
    added = getattr(tokenizer, "added_tokens_decoder", {})
    tokens = {*named, *(token.content for token in added.values() if token.special)}
    return sorted(tokens, key=len, reverse=True)
