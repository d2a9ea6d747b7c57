"""What a config would do, and everything that keeps it from being done; touches nothing, imports nothing heavy."""

import difflib
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from olivine import data, lazy
from olivine.config import Loaded, explain_params
from olivine.config.schema import DataConfig, PassConfig, Workflow
from olivine.config.unserved import without_effect
from olivine.errors import ConfigError, Problem
from olivine.models.facts import DecoderFacts, ModelFacts, words
from olivine.passes import Pass, parts, passes
from olivine.paths import of_user
from olivine.systems import Probe
from olivine.work import Machine
from olivine.workflow import accelerators
from olivine.workflow._known_passes import OLIVE_PASSES
from olivine.workflow.asked import check_asked, plan_asked, scripts_of, with_params
from olivine.workflow.chain import Chain, Spec, bridge
from olivine.workflow.conflicts import conflicts
from olivine.workflow.draft import Draft
from olivine.workflow.folders import in_the_way, overlaps, used_by
from olivine.workflow.hosts import Hosts, here
from olivine.workflow.keys import cached, seams
from olivine.workflow.machine import choose
from olivine.workflow.misplaced import with_places
from olivine.workflow.names import name_problem
from olivine.workflow.packing import check_packing, check_parts, packed_names
from olivine.workflow.resources import Remote, settle
from olivine.workflow.room import check_folder, check_room, scoring_bytes, total
from olivine.workflow.rows import check_held_out, data_of, index_of, no_begin_token, plan_score, tell_seen
from olivine.workflow.scripts import check_script, unread_scripts
from olivine.workflow.source import meant_format, plan_model
from olivine.workflow.steps import TASKS, Asked, Host, Plan, ScoreRows

# For a model that is not here: of a kind that every pass takes, its layers and sizes not known. A wrong param is then
# told before the model is fetched, and beside the problem that it is missing.
STAND_IN = ModelFacts("LlamaForCausalLM", 0, DecoderFacts(hidden_size=0, n_layers=0, vocab_size=0))


def make_plan(
    loaded: Loaded,
    *,
    offline: bool = False,
    fetched: Path | None = None,
    probe: Probe | None = None,
    asked: Mapping[str | None, Host] | None = None,
) -> Plan:
    """The plan of a config that was read; its `problems` say all that keeps it from running.

    fetched: the folder of the input model, where it has come from the hub since. probe: what the system has that runs
    what the config gives no host; without one, this machine is asked. asked: hosts of an earlier plan of this config,
    which are not asked again. Raises ConfigError only when so much of the config is wrong that nothing can be planned.
    """
    with tempfile.TemporaryDirectory(prefix="olivine-plan-", ignore_cleanup_errors=True) as scratch:
        if loaded.workflow is None:
            raise ConfigError(loaded.problems)
        local = asked[None] if asked and None in asked else here(probe)
        hosts = Hosts(loaded, loaded.workflow, local, asked)
        elsewhere: dict[str, Remote] = {}  # is listed once, however many points of a search are planned
        planner = partial(
            _make_plan, scratch=Path(scratch), fetched=fetched, hosts=hosts, elsewhere=elsewhere, offline=offline
        )
        if loaded.workflow.search is None:
            return planner(loaded)
        from olivine.workflow.search_plan import plan_search

        return replace(plan_search(loaded, loaded.workflow.search, planner), source=loaded, hosts=hosts.used)


def _make_plan(
    loaded: Loaded, *, scratch: Path, fetched: Path | None, hosts: Hosts, elsewhere: dict[str, Remote], offline: bool
) -> Plan:
    workflow = loaded.workflow
    if workflow is None:
        raise ConfigError(loaded.problems)
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    cache_dir, output_dir = of_user(workflow.cache_dir).absolute(), of_user(workflow.output_dir).absolute()
    settled = settle(loaded, workflow, cache_dir, elsewhere, offline=offline)
    workflow = settled.workflow
    draft = _begun(loaded, workflow, scratch, cache_dir, hosts, offline=offline)
    draft.problems += settled.problems
    draft.has_model = settled.has_model
    draft.remotes = tuple(remote for remote in settled.remotes if not remote.is_here)
    draft.translated += [_told(remote) for remote in draft.remotes]
    plan_model(draft, fetched)
    _leave_out_end_tokens(draft)
    _plan_systems(draft)
    for folder, key in ((cache_dir, "cache_dir"), (output_dir, "output_dir")):
        check_folder(draft, folder, key)
    check_packing(draft)
    asked = plan_asked(draft)
    _plan_steps(draft)
    check_parts(draft)
    no_begin_token(draft)
    score = _measured(draft, plan_score(draft))
    check_asked(draft, asked, score)
    if score is not None:
        score = replace(score, metrics=with_params(score.metrics, asked), scripts=scripts_of(asked))
        score = _with_tasks(draft, score, asked)
    tell_seen(draft, score)
    _plan_unused(draft)
    for key, message, fix in overlaps(cache_dir, output_dir, used_by(draft.model, draft.steps, score)):
        draft.problem("invalid-value", (key,), message, fix)
    for message, fix in in_the_way(output_dir, packed_names(draft.workflow)):
        draft.problem("invalid-value", ("output_dir",), message, fix)
    scoring = scoring_bytes(draft, score)
    estimate = total(draft, scoring)
    check_room(draft, estimate)
    plan = Plan(
        steps=tuple(draft.steps),
        problems=tuple(sorted(dict.fromkeys(with_places(draft.problems, workflow)), key=_place)),
        translated=tuple(dict.fromkeys(draft.translated)),
        estimate=estimate,
        input_model=draft.model,
        hub_name=draft.hub_name,
        hub_revision=workflow.input_model.load_kwargs.revision,
        score=score,
        quality=draft.workflow.quality,
        cache_dir=cache_dir,
        output_dir=output_dir,
        machine=draft.machine,
        workflow=workflow.model_dump(mode="json", exclude_defaults=True),
        n_parameters=draft.facts.n_parameters if draft.facts else 0,
        model_config=draft.facts.config if draft.facts else {},
        source=loaded,
        versions=draft.hosts[None][0].probe.versions,
        hosts=hosts.used,
        asked=asked,
        remotes=settled.remotes,
        facts=draft.facts,
        form=draft.model.form if draft.model else meant_format(draft),
        scoring_bytes=scoring,
    )
    if plan.problems or not all(host.is_known for host in plan.hosts.values()):
        return plan
    done = cached(plan)
    scoring = 0 if all(f"score:{seam.name}" in done for seam in seams(plan)) else scoring
    return replace(plan, cached=done, scoring_bytes=scoring, estimate=total(draft, scoring, done))


def _begun(loaded: Loaded, workflow: Workflow, scratch: Path, cache_dir: Path, hosts: Hosts, *, offline: bool) -> Draft:
    """A draft that knows where everything runs: the workflow's host, those of passes, and the target."""
    main, target = hosts.in_role("host"), hosts.in_role("target")
    where = loaded.document.where(("systems",))
    measured = target.probe if target.name != main.name and workflow.target is not None else None
    choice = choose(
        workflow,
        cache_dir,
        where,
        main.probe,
        target=measured,
        offline=offline,
        there=str(main),
        n_nodes=main.system.n_nodes,
    )
    draft = Draft(loaded, workflow, choice.machine, scratch)
    draft.hosts[None] = main, choice.machine
    problems, notes = list(choice.problems), list(choice.notes)
    for name in dict.fromkeys([*(one.host for one in workflow.passes.values()), workflow.target]):
        if name is not None:
            host = hosts.of(name)
            place = draft.where("systems", name)
            choice = choose(
                workflow,
                cache_dir,
                place,
                host.probe,
                offline=offline,
                host=name,
                there=str(host),
                n_nodes=host.system.n_nodes,
            )
            draft.hosts[name] = host, choice.machine
            if name != workflow.target:
                problems += choice.problems
                notes += choice.notes
    for host in {host.name: host for host, _ in draft.hosts.values()}.values():
        problems += _packages(host)
    draft.problems += [*loaded.problems, *hosts.problems, *problems]
    draft.translated += [*map(str, loaded.notes), *hosts.notes, *dict.fromkeys(notes)]
    return draft


def _leave_out_end_tokens(draft: Draft) -> None:
    """Drop what a translation says of end tokens where the model writes no text, and gets none."""
    if draft.facts is not None and draft.facts.decoder is None:
        said = {str(note) for note in draft.loaded.notes if note.new == "add_special_tokens" and not note.old}
        draft.translated = [note for note in draft.translated if note not in said]


def _measured(draft: Draft, score: ScoreRows | None) -> ScoreRows | None:
    """The rows with where they are scored: on the target, or on the host where that is the same system."""
    if score is None:
        return None
    main, machine = draft.hosts[None]
    target, there = draft.hosts[draft.workflow.target] if draft.workflow.target is not None else (main, machine)
    if target.name == main.name:
        return replace(score, host=main.name, versions=main.probe.versions)
    return replace(score, host=target.name, versions=target.probe.versions, machine=there)


def _with_tasks(draft: Draft, score: ScoreRows, asked: tuple[Asked, ...]) -> ScoreRows:
    """The rows with the tasks of lm-eval that are asked for; what knows them is imported for these alone."""
    if TASKS not in score.metrics:
        return score
    from olivine.workflow.harness import with_tasks

    return with_tasks(draft, score, asked)


def _on_host(draft: Draft, name: str | None) -> tuple[Host, Machine]:
    """The system of that name and its machine; the workflow's host where there is no such system."""
    return draft.hosts.get(name, draft.hosts[None])


def _place(problem: Problem) -> tuple[str, int, str]:
    """Problems in the order of the file."""
    name, _, line = problem.where.rpartition(":")
    return (name, int(line), problem.message) if line.isdigit() else (problem.where, 0, problem.message)


def _plan_systems(draft: Draft) -> None:
    for problem in accelerators.check(draft.workflow):
        draft.problems.append(replace(problem, where=draft.where(*problem.key), key=()))


def _plan_unused(draft: Draft) -> None:
    """Say what the config holds and nothing reads."""
    for path, advice in without_effect(draft.workflow):
        draft.translated.append(f"'{path[-1]}' has no effect: {advice[0].lower()}{advice[1:].rstrip('.')}")
    draft.translated += [f"warning: {sentence}" for sentence in unread_scripts(draft.workflow)]
    used = {name for step in draft.steps for name in step.data} | {draft.workflow.quality.data_config}
    named = {str(value) for config in draft.workflow.passes.values() for value in config.params.values()}
    for config in draft.workflow.data_configs:
        if config.name not in used | named:
            draft.translated.append(f"the data config '{config.name}' is used by nothing")
            for problem in data.check_names(config):
                draft.problem(problem.kind, ("data_configs", index_of(draft, config), *problem.key), problem.message)


def _plan_steps(draft: Draft) -> None:
    """Every pass in the order of the config, each checked against the model that reaches it."""
    configs = draft.workflow.passes
    first = next(iter(configs.values()), None)
    form = draft.model.form if draft.model else meant_format(draft)
    main, machine = draft.hosts[None]
    links = Chain(machine, draft.facts, form, host=main.name, versions=main.probe.versions)
    base = draft.model.base.format if draft.model and draft.model.base else None
    draft.chain = links.begun(passes.find(first.type) if first else None, configs, base)
    if not configs and draft.workflow.evaluator is None and draft.workflow.auto_optimizer_config is None:
        fix = "Name at least one under 'passes', or an evaluator that measures the input model."
        draft.problem("invalid-value", ("passes",), "there is no pass to run.", fix)
    for name, config in configs.items():
        if (reserved := name_problem(name)) is not None:
            draft.problem("invalid-value", ("passes", name), reserved, "Choose another name.")
        host, machine = _on_host(draft, config.host)
        draft.chain = replace(draft.chain, machine=machine, host=host.name, versions=host.probe.versions)
        plugin = _plugin(draft, name, config, host.probe)
        if plugin is not None:
            _check_place(draft, name, plugin)
        one = _with_params(draft, name, config, plugin) if plugin is not None else None
        if one is None:
            draft.chain = draft.chain.past(plugin)  # one mistake, one message
            continue
        used = data_of(draft, name, one)
        with lazy.environment(host.probe.versions, host.probe.modules):
            _check_pass(draft, name, one, used)
        draft.chain = draft.chain.then(name, one, used)


def _check_place(draft: Draft, name: str, plugin: type[Pass]) -> None:
    """That a pass works on the kind of model, and the format, that reaches it."""
    facts, form = draft.chain.facts, draft.chain.form
    if facts is not None and not parts.serves(plugin, facts):
        _explain_kind(draft, name, plugin, facts)
    elif form is not None and form not in plugin.accepts:
        _explain_chain(draft, name, plugin, form)


def _check_pass(draft: Draft, name: str, one: Pass, used: Mapping[str, DataConfig]) -> None:
    """What a pass says of the model that reaches it."""
    facts, machine = draft.chain.facts or STAND_IN, draft.chain.machine
    _check_model_names(draft, name, one)
    if (asked := one.script()) is not None:
        check_script(draft, *asked, ("passes", name))
    draft.problems += [_placed(draft, name, type(one), problem) for problem in parts.check(one, facts, machine, used)]
    draft.translated += [f"step {name}: {note}" for note in parts.notes(one, facts, machine, used)]
    check_held_out(draft, name, one, used)


def _plugin(draft: Draft, name: str, config: PassConfig, probe: Probe) -> type[Pass] | None:
    plugin = passes.find(config.type)
    path = ("passes", name, "type")
    if plugin is None and (why := passes.why_missing(config.type)) is not None:
        fix = "Install a version of its package that fits."
        draft.problem("missing-extra", path, f"the pass {why}.", fix)
    elif plugin is None and (instead := OLIVE_PASSES.get(config.type.lower())) is not None:
        draft.problem("unsupported", path, f"the pass '{config.type}' is not built in olivine.", instead)
    elif plugin is None:
        nearest = passes.nearest(config.type)
        hint = f"Did you mean '{nearest}'?" if nearest else f"There are: {', '.join(passes.names)}."
        draft.problem("unknown-pass", path, f"there is no pass '{config.type}'.", hint)
    else:
        for module, extra in plugin.modules.items():
            if module not in probe.modules:
                draft.problem("missing-extra", path, f"{lazy.missing_sentence(module, extra)}.")
    return plugin


def _with_params(draft: Draft, name: str, config: PassConfig, plugin: type[Pass]) -> Pass | None:
    given = dict(config.params)
    known = {*plugin.Params.model_fields, *plugin.spellings}
    for key in [key for key in given if key not in known]:
        if (meant := plugin.Params.belongs_in(key)) is not None:
            del given[key]
            message = f"unknown key '{key}' in 'passes.{name}'; did you mean '{meant}'?"
            draft.problem("unknown-key", ("passes", name, key), message)
    spec, known_data = Spec(name, plugin, given), {other.name for other in draft.workflow.data_configs}
    try:
        return draft.chain.configured(spec, known_data)
    except ValidationError as error:
        offered = [*plugin.Params.model_fields, "type", "host"]
        draft.problems += explain_params(draft.loaded.document, ("passes", name), error, offered)
        known_spec = _without_unknown(spec, error)
        return draft.chain.configured(known_spec, known_data) if known_spec is not None else None


def _without_unknown(spec: Spec, error: ValidationError) -> Spec | None:
    """The pass without its misspelt keys, to look for more that is wrong; None where wrong values would mislead."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    unknown = {fault["loc"][0] for fault in faults if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1}
    if len(unknown) < len(faults):
        return None
    return replace(spec, params={key: value for key, value in spec.params.items() if key not in unknown})


def _explain_chain(draft: Draft, name: str, plugin: type[Pass], form: str) -> None:
    maker = next((step for step in reversed(draft.steps) if step.produces == form and not step.implicit), None)
    if maker is not None and form in plugin.not_accepted:
        message, fix = plugin.not_accepted[form]
        draft.problem("invalid-value", ("passes", name), message.format(name=maker.name), fix)
        return
    wanted = " or ".join(sorted(plugin.accepts))
    between = " and ".join(f"'{one}'" for one in _between(draft.chain.facts, form, plugin.accepts))
    fix = f"Put {between} before it." if between else "Change the order of the passes."
    if (taker := _taker_of(draft, name, form)) is not None:
        fix = f"'{taker}' takes the {form} out of a graph: use OnnxConversion in its place, which keeps it apart there."
    draft.problem(
        "invalid-value", ("passes", name), f"pass '{name}' takes {wanted}, but what reaches it is {form}.", fix
    )


def _between(facts: ModelFacts | None, form: str, accepted: Collection[str]) -> list[str]:
    """The passes that lead from a format to one of others; where the usual ones take no such model, one that does."""
    usual = bridge(form, accepted)
    if facts is None or all(parts.serves(passes[name], facts) for name in usual):
        return usual
    others = (one for one in passes.classes.values() if form in one.accepts and one.produces in accepted)
    return [one.name for one in others if parts.serves(one, facts)][:1]


def _taker_of(draft: Draft, name: str, form: str) -> str | None:
    """The pass after one of that name which needs what is of a format not to be put into another model."""
    configs = [*draft.workflow.passes.items()]
    place = next(index for index, (other, _) in enumerate(configs) if other == name)
    later = [(other, passes.find(config.type)) for other, config in configs[place + 1 :]]
    return next((other for other, plugin in later if plugin is not None and plugin.needs_apart == form), None)


def _explain_kind(draft: Draft, name: str, plugin: type[Pass], facts: ModelFacts) -> None:
    """Say that a pass is for another kind of model, once: what comes after it is checked as for the right kind."""
    path = ("input_model", "model_path")
    if facts.parts and plugin.of_parts == "neither":
        message = f"the pass '{name}' ({plugin.name}) works on one model, and this is {facts.in_words}."
        fix = "Run it on a part by itself, with that as input_model, or leave the pass out."
        draft.problem("unsupported", ("passes", name), message, fix)
        draft.chain = replace(draft.chain, facts=None)
        return
    message = f"the pass '{name}' ({plugin.name}) works on {words(plugin.kinds)}, and the model is {facts.in_words}."
    draft.problem("unsupported", path, message, "Name another model, or leave the pass out.")
    draft.chain = replace(draft.chain, facts=None)


def _check_model_names(draft: Draft, name: str, step: Pass) -> None:
    """Every model that a step names must have come before it."""
    known = ["input", *(earlier.name for earlier in draft.steps)]
    for wanted in step.model_names():
        if wanted not in known:
            params = draft.workflow.passes[name].params
            key = next(((key,) for key, value in params.items() if value == wanted), ())
            close = difflib.get_close_matches(wanted, known, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(known)}."
            message = f"'{wanted}' is neither a path nor the name of an earlier step."
            draft.problem("missing-model", ("passes", name, *key), message, hint)


def _placed(draft: Draft, name: str, plugin: type[Pass], problem: Problem) -> Problem:
    """A problem of a pass with the file and line of the param that it is about, under the name that is written."""
    params = draft.workflow.passes[name].params
    first, rest = problem.key[:1], problem.key[1:]
    if first and first[0] not in params:
        first = tuple(key for key in params if plugin.spellings.get(key) == first[0])[:1]
    return replace(problem, where=draft.where("passes", name, *first, *(rest if first else ())), key=())


def _packages(host: Host) -> Iterator[Problem]:
    """Packages of a host that exclude each other, and versions outside of what was tested."""
    probe, there = host.probe, "" if host.name is None else f" on {host}"
    for conflict in conflicts(probe.version, has_nvidia=probe.has_nvidia):
        yield Problem("missing-extra", "", f"{conflict.message(there)}.", f"{conflict.fix}.")
    version, wanted = probe.version("transformers"), lazy.supported("transformers")
    if version == "none":
        python = sys.executable if host.name is None else "python"
        yield Problem(
            "missing-extra", "", f"transformers is not installed{there}.", f"Run: {python} -m pip install olivine."
        )
    elif wanted is not None and not wanted.contains(version, prereleases=True):
        message = f"transformers {version} is installed{there}, but {wanted} is supported."
        yield Problem("missing-extra", "", message, f"Run: pip install 'transformers{wanted}'.")


def _told(remote: Remote) -> str:
    """What becomes of something that lies elsewhere."""
    if remote.host is None:
        return f"'{remote.address}' is brought before the first step"
    return f"'{remote.address}' is read where it lies by the nodes of '{remote.host}'; its weights do not come here"
