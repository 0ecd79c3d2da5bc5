"""A Kubernetes cluster of one real node, and container images, built without an image registry.

What lives here: building the programs (`binaries`, from Go modules), Debian's packages (`debian`),
a docker daemon of our own (`dockerd`), images (`images`), and the cluster itself (`cluster`, with
`pki`, `control_plane`, `node`, `supervisor` and `leftovers` behind it). Nothing here knows Rowlock;
tests use it through `tests/cluster/conftest.py`, people through ``python -m testbed``.

Everything that runs is ours alone: its own sockets, folders, bridges and addresses. Nothing is
taken from, or given to, a docker daemon or a cluster that the machine has already.
"""
