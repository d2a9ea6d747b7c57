"""Azure on this machine, as far as AzureML needs it: the real SDKs reach it under the real names, through a proxy.

    with Azure(folder) as azure:
        azure.environment()   # for the process that is to believe it

`Azure` is an HTTPS proxy that answers for every host itself, with certificates of its own authority. It is strict: a
request that the real service would refuse (no token, a wrong scope, an unknown api-version, path or container) is
refused with the real shapes, and every request is kept in `asked`.
"""

from .nodes import believe, image_that, image_with, plain_image
from .registry import put_mlflow
from .server import Azure, Fault, amlcompute, arc

__all__ = ["Azure", "Fault", "amlcompute", "arc", "believe", "image_that", "image_with", "plain_image", "put_mlflow"]
