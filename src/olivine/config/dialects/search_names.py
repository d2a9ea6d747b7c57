"""`search_algorithm` exhaustive, random or tpe with its config, until 2024: today `sampler` and `sampler_config`."""

from olivine.config.dialects._edit import Findings, Note, drop, move, rename, section_of
from olivine.config.nodes import Object

_SAMPLERS = {"exhaustive": "sequential"}


def translate(config: Object) -> Findings:
    """Give a search strategy today's names."""
    search = config.mapping("search_strategy")
    if search is None:
        return
    yield from rename(search, "search_algorithm", "sampler")
    yield from rename(search, "search_algorithm_config", "sampler_config")
    sampler = search.get("sampler")
    if isinstance(sampler, str) and sampler.lower() in _SAMPLERS:
        search["sampler"] = _SAMPLERS[sampler.lower()]
        message = f"The search algorithm '{sampler}' is the sampler '{search['sampler']}' today."
        yield Note(search.where("sampler"), sampler, search["sampler"], message)
    for key in ("max_samples", "num_samples", "seed"):
        if key in search:
            yield from move(search, key, section_of(search, "sampler_config", search.places[key]))
    if (n_models := search.get("output_model_num")) is None:
        search.pop("output_model_num", None)
    several = isinstance(n_models, int) and n_models > 1
    message = "'output_model_num' is dropped: the best model is delivered, and the others stay in the cache."
    yield from drop(search, "output_model_num", message, warning=several)
    settings = search.mapping("sampler_config")
    if settings is not None:
        yield from rename(settings, "num_samples", "max_samples")
