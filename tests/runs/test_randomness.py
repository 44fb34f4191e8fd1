import torch

from headfields.runs.randomness import RandomStream


def test_the_stream_is_the_runs_own_and_goes_on():
    stream, through = (RandomStream(3, torch.device("cpu")) for _ in range(2))
    with through.active():
        expected = torch.rand(4)
    torch.manual_seed(99)
    outside = torch.get_rng_state()
    with stream.active():
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), outside)
    with stream.active():
        second = torch.rand(2)
    assert torch.equal(torch.cat([first, second]), expected)


def test_untouched_draws_again():
    stream = RandomStream(0, torch.device("cpu"))
    with stream.active():
        with stream.preserved():
            first = torch.rand(3)
        assert torch.equal(torch.rand(3), first)


def test_states_come_back_inside_and_outside_of_a_run():
    stream = RandomStream(0, torch.device("cpu"))
    with stream.active():
        torch.rand(5)
        torch.rand(5, generator=stream.generator)
        states = stream.states()
        expected = torch.rand(3), torch.rand(3, generator=stream.generator)
        stream.load(states)
        assert torch.equal(torch.rand(3), expected[0])
    other = RandomStream(1, torch.device("cpu"))
    other.load(states)
    with other.active():
        assert torch.equal(torch.rand(3), expected[0])
    assert torch.equal(torch.rand(3, generator=other.generator), expected[1])
