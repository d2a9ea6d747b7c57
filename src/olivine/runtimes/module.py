"""Any model of transformers as a function: named arrays in, named arrays out."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.chained import chained
from olivine.models.interface import signatures_of
from olivine.models.loading import load_module
from olivine.models.onnx_files import graph_of
from olivine.models.openvino_files import context_of, ir_of
from olivine.models.seq2seq import seq2seq
from olivine.models.speech import hears
from olivine.runtimes.chained import ChainedSession
from olivine.runtimes.openvino import OpenvinoSession
from olivine.runtimes.seq2seq import Seq2SeqSession
from olivine.runtimes.session import OnnxSession
from olivine.runtimes.speech import SpeechSession

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
else:
    np, torch = lazy.module("numpy"), lazy.module("torch")


class ModuleSession:
    """A checkpoint that is open in torch; the same calls as an OnnxSession has."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self._path, self._device = model.path, device
        self._module = load_module(model, device=device)

    def run(self, inputs: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]]":
        """All outputs that are tensors by their names; ModelError when the model does not take the inputs."""
        given = {name: torch.as_tensor(np.array(value)).to(self._device) for name, value in inputs.items()}
        try:
            outputs = call(self._module, given)
        except Exception as error:  # a model's own code raises whatever it likes
            shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in inputs.items())
            told = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(f"{self._path} does not run on {shapes}: {told}") from error
        return {name: value.cpu().numpy() for name, value in outputs.items()}

    def decoder(self, source: Mapping[str, Any]) -> "Callable[[Sequence[int]], npt.NDArray[np.float32]]":
        """What gives the logits [vocabulary] after tokens that grow by one from call to call.

        source: the encoder's inputs, of one sound or text.
        """
        module = self._module
        given = {name: torch.as_tensor(np.array(value)).to(self._device) for name, value in source.items()}
        mask = {name: given[name] for name in ("attention_mask",) if name in given}
        with torch.inference_mode():
            heard = module.get_encoder()(**given)
        state: dict[str, Any] = {"cache": None, "n_read": 0}

        def following(tokens: Sequence[int]) -> "npt.NDArray[np.float32]":
            ids = torch.tensor([tokens[state["n_read"] :]], device=self._device)
            with torch.inference_mode():
                said = module(
                    encoder_outputs=heard,
                    decoder_input_ids=ids,
                    past_key_values=state["cache"],
                    use_cache=True,
                    **mask,
                )
            state.update(cache=said.past_key_values, n_read=len(tokens))
            last: npt.NDArray[np.float32] = said.logits[0, -1].float().cpu().numpy()
            return last

        return following


def call(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors among the outputs of a module of transformers, by their names, in their order."""
    with torch.inference_mode():
        outputs = module(**inputs, return_dict=True)
    return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


class PartsSession:
    """The parts of a model, each open by itself; inputs and outputs are named PART/NAME."""

    def __init__(self, sessions: "Mapping[str, AnySession]") -> None:
        self._sessions = sessions

    def run(self, inputs: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]]":
        """All outputs of all parts; of an error, the part is named."""
        outputs: dict[str, npt.NDArray[Any]] = {}
        for part, session in self._sessions.items():
            own = {
                name.removeprefix(f"{part}/"): value for name, value in inputs.items() if name.startswith(f"{part}/")
            }
            try:
                given = session.run(own)
            except ModelError as error:
                raise ModelError(f"the part '{part}': {error}") from error
            outputs |= {f"{part}/{name}": value for name, value in given.items()}
        return outputs


AnySession = (
    OnnxSession | OpenvinoSession | ModuleSession | SpeechSession | PartsSession | Seq2SeqSession | ChainedSession
)


def fed_to(whole: Model, part: str, rows: Sequence[Mapping[str, Any]], n_most: int) -> "list[Mapping[str, Any]] | None":
    """What a part of a model is given where rows are read by all of it, `n_most` times at most.

    None for parts that give each other nothing.
    """
    session = open_session(whole, "CPUExecutionProvider", "cpu")
    if not isinstance(session, Seq2SeqSession | ChainedSession):
        return None
    fed: list[Mapping[str, Any]] = []
    session.heard = lambda name, inputs: fed.append(inputs) if name == part else None
    for row in rows:
        session.run(row)
        if len(fed) >= n_most:
            break
    return fed[:n_most]


def open_session(model: Model, provider: str, device: str) -> AnySession:
    """A model of any format, ready to be asked for its outputs; a graph that wraps an IR is run as that IR."""
    if model.format == "composite":
        sessions = {name: open_session(part, provider, device) for name, part in model.parts.items()}
        signatures = signatures_of(model)
        if (chain := chained(model, signatures)) is not None:
            return ChainedSession(chain, signatures, sessions)
        roles = seq2seq(signatures) if len(signatures) == len(sessions) else None
        return PartsSession(sessions) if roles is None else Seq2SeqSession(roles, signatures, sessions)
    if model.packaging == "genai" and hears(model.path):
        return SpeechSession(model.path, provider)
    if model.format == "openvino":
        return OpenvinoSession(ir_of(model))
    if model.format == "onnx":
        wrapped = context_of(model)
        return OnnxSession(graph_of(model), provider) if wrapped is None else OpenvinoSession(wrapped)
    return ModuleSession(model, device)
