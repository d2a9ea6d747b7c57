"""Whether a cluster could make a pod at all: what a config names is there, and the user may do what is needed."""

from olivine.errors import RequestError, Unsupported
from olivine.systems._kubernetes import Cluster, Forbidden
from olivine.systems._kubernetes_params import KubernetesParams

# verb, group and resource that a user has to be allowed, and what for
_NEEDED = (
    ("create", "batch", "jobs", "start Jobs"),
    ("get", "batch", "jobs", "look at Jobs"),
    ("delete", "batch", "jobs", "end Jobs"),
    ("list", "", "pods", "look at pods"),
    ("watch", "", "pods", "look at pods"),
    ("get", "", "pods/log", "read the logs of pods"),
)


def check(cluster: Cluster, namespace: str, params: KubernetesParams, n_gpus: int) -> None:
    """RequestError for what would keep every pod from its start; what the user may not look at is not looked at."""
    if cluster.exists("read_namespace", namespace) is False:
        raise RequestError(f"the cluster has no namespace '{namespace}'; make it: kubectl create namespace {namespace}")
    for verb, group, resource, purpose in _NEEDED:
        if not cluster.may(namespace, verb, group, resource):
            raise RequestError(
                f"this user may not {purpose} in the namespace '{namespace}': ask for a role that may {verb} {resource}"
            )
    _check_objects(cluster, namespace, params)
    if n_gpus and not params.autoscales:
        _check_gpus(cluster, params, n_gpus)


def _check_objects(cluster: Cluster, namespace: str, params: KubernetesParams) -> None:
    secrets = {place.partition("/")[0] for place in params.secrets.values()} | set(params.image_pull_secrets)
    named = [("secret", secret) for secret in sorted(secrets)]
    named += [("service_account", params.service_account)] if params.service_account else []
    named += [("persistent_volume_claim", params.volume_claim)] if params.volume_claim else []
    for kind, name in named:
        if cluster.exists(f"read_namespaced_{kind}", name, namespace) is False:
            word = kind.replace("_", "")
            fix = f"'kubectl -n {namespace} get {word}s' lists those that are there"
            if kind == "secret":
                fix = f"make it: kubectl -n {namespace} create secret generic {name} --from-literal=KEY=VALUE"
            raise RequestError(f"the namespace '{namespace}' has no {kind.replace('_', ' ')} '{name}'; {fix}")


def _check_gpus(cluster: Cluster, params: KubernetesParams, n_gpus: int) -> None:
    selector = ",".join(f"{key}={value}" for key, value in params.node_selector.items())
    try:
        nodes = cluster.call("CoreV1Api", "list_node", label_selector=selector)["items"]
    except Forbidden:
        return  # who may not look at nodes finds out when the pod waits
    resource = params.gpu_resource
    offered = max((int(node["status"].get("allocatable", {}).get(resource, "0")) for node in nodes), default=0)
    if offered < n_gpus:
        which = f" with the labels {selector}" if selector else " of the cluster"
        most = f"one offers {offered} at most" if offered else "none offers any"
        raise Unsupported(
            f"a pod asks for {n_gpus} {resource}, but of the {len(nodes)} nodes{which} {most}; "
            "ask for fewer, or say 'autoscales: true' where nodes come when they are needed"
        )
