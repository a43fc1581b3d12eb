"""Chat completions as a stage of Ray Data: one reply for each row of a dataset, on as many machines as a cluster has.

Requires the extra ``ray``, on the driver and on all nodes of the cluster.

    dataset = complete(ray.data.read_parquet("in/"), request="messages", model="m", journal="/shared/run-1")
    dataset.write_parquet("out/", mode=SaveMode.OVERWRITE)

`complete` adds the stage to a dataset, `Complete` is the stage, and `SharedPace` is a `Pace` that all workers of a cluster
share.
"""

from .pace import SharedPace
from .stage import Complete, complete

__all__ = ["Complete", "SharedPace", "complete"]
