"""What a real API server says of an object: unknown fields, wrong types and broken rules are refused.

Fields and their types are those of the kubernetes client's own models; rules beyond them are of the API's validation.
"""

import re

import kubernetes.client
from pydantic import ValidationError

LABEL = re.compile(r"^([a-z0-9A-Z]([-a-z0-9A-Z_.]{0,61}[a-z0-9A-Z])?)?$")
DNS_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
VARIABLE = re.compile(r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
UNITS |= {f"{letter}i": 2.0 ** (10 * power) for power, letter in enumerate("KMGTP", start=1)}


class Refused(Exception):  # noqa: N818 - what it is
    """status: of HTTP, with the reason that goes with it."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def amount(quantity):
    """The number that a quantity means."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", str(quantity))
    if not match or match[2] not in UNITS:
        raise Refused(400, f"quantities must match the regular expression: '{quantity}'")
    return float(match[1]) * UNITS[match[2]]


def check(value, model):
    """Refuse an object that the model does not hold."""
    _known_fields(value, model, model)
    try:
        getattr(kubernetes.client, model).model_validate(value)
    except ValidationError as error:
        raise Refused(400, f"{model} in version v1 cannot be handled: {error}") from None
    rules = {"V1Job": check_job}
    if model in rules:
        rules[model](value)


def _known_fields(value, kind, where):
    """Every field is one of its model, all the way down."""
    listed, mapped = re.fullmatch(r"List\[(.*)\]", kind), re.fullmatch(r"Dict\[str, (.*)\]", kind)
    if listed:
        _expect(value, list, where)
        for index, item in enumerate(value):
            _known_fields(item, listed[1], f"{where}[{index}]")
    elif mapped:
        _expect(value, dict, where)
        for key, item in value.items():
            _known_fields(item, mapped[1], f"{where}[{key}]")
    elif hasattr(model := getattr(kubernetes.client, kind, None), "attribute_map"):
        _expect(value, dict, where)
        types = {model.attribute_map[name]: each for name, each in model.openapi_types.items()}
        for key, item in value.items():
            if key not in types:
                raise Refused(400, f'strict decoding error: unknown field "{where}.{key}"')
            _known_fields(item, types[key], f"{where}.{key}")
    elif kind in ("str", "int", "bool"):
        _expect(value, {"str": str, "int": int, "bool": bool}[kind], where)
        if kind == "int" and isinstance(value, bool):
            raise Refused(400, f"{where}: cannot unmarshal bool into Go struct field")


def _expect(value, kind, where):
    if not isinstance(value, kind):
        raise Refused(400, f"{where}: cannot unmarshal {type(value).__name__} into Go struct field of {kind.__name__}")


def _rule(holds, where, message):
    if not holds:
        raise Refused(422, f"{where}: {message}")


def check_job(job):
    """The rules of a Job."""
    _rule(job.get("apiVersion") == "batch/v1" and job.get("kind") == "Job", "apiVersion", "no such kind")
    name = job["metadata"].get("name", "")
    _rule(DNS_NAME.match(name) and len(name) <= 63, "metadata.name", f"Invalid value: '{name}'")
    _labels(job["metadata"].get("labels", {}), "metadata.labels")
    spec = job["spec"]
    _rule(spec.get("backoffLimit", 0) >= 0, "spec.backoffLimit", "must be greater than or equal to 0")
    if spec.get("completionMode", "NonIndexed") == "Indexed":
        _rule(spec.get("completions", 0) > 0, "spec.completions", "Required value: when completion mode is Indexed")
        most = spec["completions"]
        _rule(0 < spec.get("parallelism", 1) <= max(most, 10**5), "spec.parallelism", "is out of range")
    else:
        _rule("completions" not in spec, "spec.completions", "nothing here counts pods that are all alike")
    pod = spec["template"]["spec"]
    _labels(spec["template"].get("metadata", {}).get("labels", {}), "spec.template.labels")
    restart = pod.get("restartPolicy")
    _rule(restart in ("Never", "OnFailure"), "restartPolicy", 'supported values: "OnFailure", "Never"')
    if policy := spec.get("podFailurePolicy"):
        _rule(restart == "Never", "restartPolicy", "only 'Never' is supported when podFailurePolicy is specified")
        for rule in policy["rules"]:
            _check_rule(rule)
    _check_pod(pod)


def _check_rule(rule):
    _rule(rule["action"] in ("FailJob", "Ignore", "Count", "FailIndex"), "podFailurePolicy", rule["action"])
    _rule(("onExitCodes" in rule) != ("onPodConditions" in rule), "podFailurePolicy", "one of the two is required")
    if codes := rule.get("onExitCodes"):
        _rule(codes["operator"] in ("In", "NotIn"), "onExitCodes.operator", codes["operator"])
        _rule(codes["values"] == sorted(set(codes["values"])), "onExitCodes.values", "must be ordered and unique")
        _rule(codes["operator"] == "NotIn" or 0 not in codes["values"], "onExitCodes.values", "must not be 0 for In")
    for pattern in rule.get("onPodConditions", []):
        _rule(pattern["status"] in ("True", "False", "Unknown"), "onPodConditions.status", pattern["status"])


def _check_pod(pod):
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    _rule(len(volumes) == len(pod.get("volumes", [])), "volumes", "Duplicate value")
    for volume in volumes.values():
        _rule(len(volume) == 2, "volumes", "must specify one volume type, and one only")
    for toleration in pod.get("tolerations", []):
        is_any = toleration.get("operator") == "Exists"
        _rule(not (is_any and toleration.get("value")), "tolerations", "value must be empty when operator is 'Exists'")
        _rule(toleration.get("key") or is_any, "tolerations", "operator must be Exists when key is empty")
        lasts = toleration.get("tolerationSeconds")
        _rule(lasts is None or toleration.get("effect") == "NoExecute", "tolerations", "effect must be 'NoExecute'")
    _labels(pod.get("nodeSelector", {}), "nodeSelector")
    _rule(pod["containers"], "containers", "Required value")
    for container in pod["containers"]:
        _check_container(container, volumes)


def _check_container(container, volumes):
    _rule(DNS_NAME.match(container["name"]), "containers.name", container["name"])
    _rule(container.get("image", "").strip() == container.get("image") != "", "image", "Required value")
    for variable in container.get("env", []):
        _rule(VARIABLE.match(variable["name"]), "env.name", f"Invalid value: '{variable['name']}'")
        _rule(
            not ("value" in variable and "valueFrom" in variable),
            "env",
            "may not be specified when `value` is not empty",
        )
    paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    _rule(len(paths) == len(set(paths)), "volumeMounts", "must be unique")
    for mount in container.get("volumeMounts", []):
        _rule(mount["name"] in volumes, "volumeMounts", f'Not found: "{mount["name"]}"')
        below = mount.get("subPath", "")
        _rule(not below.startswith("/") and ".." not in below.split("/"), "subPath", "must be a relative path")
    resources = container.get("resources", {})
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for name, quantity in {**requests, **limits}.items():
        value = amount(quantity)
        if "/" in name:
            _rule(value == int(value), "resources", "must be an integer")
            _rule(requests.get(name, quantity) == limits.get(name), "resources", f"must be equal to {name} limit")
        elif name in requests and name in limits:
            _rule(amount(requests[name]) <= amount(limits[name]), "resources", f"must be less than {name} limit")


def _labels(labels, where):
    for key, value in labels.items():
        _rule(LABEL.match(key.rpartition("/")[2]) and key, where, f"Invalid value: '{key}'")
        _rule(
            LABEL.match(value), where, f"Invalid value: '{value}': a valid label must be an empty string or consist of"
        )
