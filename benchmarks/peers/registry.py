# SPDX-License-Identifier: Apache-2.0
"""Every peer there is. To add one: a file with a subclass of Peer, and a line here."""

from __future__ import annotations

from .auto_round import AutoRound
from .contestant import Peer
from .ggml import GgmlCpu
from .ipex import Ipex
from .onnx_runtime import OnnxRuntime
from .openvino_runtime import OpenVino
from .pytorch import PyTorch
from .remote import Remote
from .this_library import ThisLibrary

LOCAL_PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (ThisLibrary, OnnxRuntime, OpenVino, PyTorch, AutoRound, Ipex, GgmlCpu)
}
"""By name, as if all were to be used in this process."""


def all_peers() -> list[Peer]:
    """Each where it belongs: in this process or in one of its own."""
    elsewhere = {
        AutoRound.name: Remote(AutoRound()),
        Ipex.name: Remote(Ipex(), "PEERS_IPEX_PYTHON"),
    }
    return [elsewhere.get(name) or peer() for name, peer in LOCAL_PEERS.items()]
