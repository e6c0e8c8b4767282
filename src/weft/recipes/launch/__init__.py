"""`weft launch`: one training command started on many processes, always by PyTorch's own elastic agent.

Every form ends in the same line of torchrun (:mod:`job`); what differs is who runs that line on each host:
this machine (:mod:`local`), ssh (:mod:`remote`), Slurm (:mod:`slurm`), Kubernetes (:mod:`kubernetes`) or a
Ray cluster (:mod:`on_ray`). It is a recipe because it composes the run file of `train` and the plan of
`parallel` into something that runs, and nothing below needs to know that it exists.
"""
