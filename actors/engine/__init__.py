"""What an engine process imports: the client, its arena mapping and its paged copy.

Importing it turns gRPC's fork support off, unless the environment says otherwise or gRPC was imported before: with it
gRPC starts its threads anew in every forked child, where those of an asynchronous channel crash. Of an engine that
forks, one child in three died of SIGSEGV (seen with gRPC 1.85). Nothing here uses gRPC on the far side of a fork.
"""

import os
import sys

if "grpc" not in sys.modules:  # it reads the variable when it is imported
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

CHILDREN_SURVIVE_FORK = os.environ.get("GRPC_ENABLE_FORK_SUPPORT") == "0"
"""Whether gRPC leaves the children that this process forks alone."""
