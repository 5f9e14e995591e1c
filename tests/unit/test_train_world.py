"""The clock of a run's phases, on the host and (with events that the test makes) on a GPU."""

import time
from types import SimpleNamespace

import pytest
import torch

from components.train import world as world_module
from components.train.exchange import Exchange
from components.train.world import World


def make_world(device: str = "cpu") -> World:
    return World(rank=0, size=1, device=torch.device(device))


class Event:
    """Stands for torch.cuda.Event: each record is one second after the one before."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.clock += 1.0
        self.at = Event.clock

    def elapsed_time(self, other: "Event") -> float:
        return (other.at - self.at) * 1000.0


@pytest.fixture
def events(monkeypatch):
    Event.clock = 0.0
    monkeypatch.setattr(world_module.torch.cuda, "Event", Event)


def test_phases_add_up_on_the_host():
    world = make_world()
    for _ in range(2):
        with world.phase("forward", on_device=True):
            time.sleep(0.01)
    world.settle()
    assert 0.02 <= world.seconds["forward"] < 0.2


def test_a_gpus_phases_count_its_own_time_once_it_is_done(events):
    world = make_world("cuda")
    with world.phase("forward", on_device=True):
        pass
    assert "forward" not in world.seconds  # the GPU is still at it
    world.settle()
    assert world.seconds["forward"] == pytest.approx(1.0)
    world.settle()
    assert world.seconds["forward"] == pytest.approx(1.0)
    with world.phase("data_wait"):
        time.sleep(0.001)
    assert world.seconds["data_wait"] > 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_exchange_is_taken_from_the_backward_pass(device, events):
    world = make_world(device)
    hooks = []
    wrapper = SimpleNamespace(register_comm_hook=lambda state, hook: hooks.append((state, hook)))
    exchange = Exchange(world, wrapper)
    assert hooks[0][0] is exchange
    with world.phase("backward", on_device=True):
        exchange.hand_over()
        time.sleep(0.005)
        exchange.hand_over()  # what came before overlaps with computing
        time.sleep(0.02)
    exchange.count()
    exchange.count()  # without a new exchange nothing is counted
    world.settle()
    total = world.seconds["backward"] + world.seconds["communication"]
    if device == "cuda":
        assert world.seconds["communication"] == pytest.approx(2.0)
        assert total == pytest.approx(3.0)
    else:
        assert 0.02 <= world.seconds["communication"] < total
        assert 0.005 <= world.seconds["backward"] < 0.02
