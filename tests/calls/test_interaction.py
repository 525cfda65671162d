"""What is found between two legs: talk-over, answers, echo, one-way audio and dead air."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from call_records import Leg, analyse, events

from speech_qc.calls.interaction import Interaction
from speech_qc.calls.records import Flag, LegRecord


def test_both_talking_is_a_talk_over_by_the_one_who_began_later():
    found, updates = analyse(Leg(12).say(1, 5), Leg(12, seed=1).say(4, 8))

    (event,) = events(found, "talk_over")
    assert event.leg == 1
    assert [event.onset_s, event.offset_s] == pytest.approx([4.0, 5.0], abs=0.04)
    assert [found.share(leg).interruptions for leg in (0, 1)] == [0, 1]
    told = [(at, update.phase) for at, update in updates if update.event.kind == "talk_over"]
    assert told == [(5.0, "begin"), (5.5, "end")], "told while the call lasts"


@pytest.mark.parametrize("length_s", [0.2, 0.48])
def test_a_backchannel_is_no_talk_over(length_s):
    found, _ = analyse(Leg(12).say(1, 8), Leg(12, seed=1).say(4, 4 + length_s))

    assert not events(found, "talk_over")


def test_answers_are_timed_and_talk_is_counted():
    agent = Leg(30).say(1, 3).say(10, 12).say(20, 22)
    customer = Leg(30, seed=1).say(3.5, 6).say(14, 16)
    found, _ = analyse(agent, customer)

    assert found.response_s(1, 0.5) == pytest.approx(0.5, abs=0.03)
    assert found.response_s(1, 0.95) == pytest.approx(2.0, abs=0.03)
    assert found.response_s(0, 0.95) == pytest.approx(4.0, abs=0.03)
    assert found.response_s(None, 0.5) == pytest.approx(2.0, abs=2.01)
    assert found.share(0).talk_ratio == pytest.approx(6 / 30, abs=0.01)
    assert found.share(1).silence_ratio == pytest.approx(1 - 4.5 / 30, abs=0.01)


@pytest.mark.parametrize("lag_s", [0.02, 0.18, 0.8])
@pytest.mark.parametrize("loss_db", [6, 30])
def test_an_echo_is_found_measured_and_not_taken_for_talk(lag_s, loss_db):
    far = Leg(20, noise_dbfs=-60).say(1, 14)
    near = Leg(20, noise_dbfs=-60, seed=1).echo_of(far, lag_s, loss_db).say(16, 18)
    found, updates = analyse(far, near)

    (event,) = events(found, "echo")
    assert event.leg == 0, "the leg that hears itself"
    assert event.echo is not None
    assert event.echo.lag_s == pytest.approx(lag_s, abs=0.005)
    assert event.echo.loss_db == pytest.approx(loss_db, abs=2)
    assert not events(found, "talk_over")
    assert found.share(1).talk_ratio == pytest.approx(2 / 20, abs=0.06)
    assert min(at for at, update in updates if update.event.kind == "echo") < 6


def test_unrelated_talkers_and_a_common_hum_are_no_echo():
    hum = (0.01 * np.sin(2 * np.pi * 100 * np.arange(40 * 4000) / 4000)).astype(np.float32)
    legs = [Leg(40, noise_dbfs=-60, seed=seed).say(1, 20).say(22, 38) for seed in (0, 1)]
    for leg in legs:
        leg.sound += hum

    assert not events(analyse(legs[0], legs[1])[0], "echo")


def test_an_echo_ends():
    far = Leg(60, noise_dbfs=-60).say(1, 58)
    near = Leg(60, noise_dbfs=-60, seed=1).echo_of(far, 0.1, 10)
    near.sound[20 * 4000 :] = Leg(40, noise_dbfs=-60, seed=2).sound
    near.flags[20 * 50 :] = 0
    (event,) = events(analyse(far, near)[0], "echo")

    assert event.offset_s is not None
    assert 20 < event.offset_s < 50


@pytest.mark.parametrize("noise_dbfs", [-200.0, -70.0, -50.0])
def test_a_leg_that_was_never_heard_is_one_way_audio(noise_dbfs):
    found, updates = analyse(Leg(20).say(1, 15), Leg(20, noise_dbfs=noise_dbfs, seed=1))

    (event,) = events(found, "one_way_audio")
    assert event.leg == 1
    assert event.onset_s == pytest.approx(1.0, abs=0.2)
    told = min(at for at, update in updates if update.event.kind == "one_way_audio")
    assert told - 1 <= 7


@pytest.mark.parametrize(
    "second",
    [
        Leg(60, seed=1).say(1, 2).mark(10, 60, 0),
        Leg(60, seed=1).play(0, 60, Flag.MUSIC),
        Leg(60, seed=1).mark(0, 60, Flag.HELD),
        Leg(60, seed=1).say(8.7, 10),
        Leg(60, seed=1).say(1, 2).mark(10, 60, Flag.SILENT),
    ],
    ids=["muted", "hold music", "declared hold", "answers", "discontinuous transmission"],
)
def test_silence_with_another_reason_is_not_one_way_audio(second):
    assert not events(analyse(Leg(60).say(3, 8.5).say(12, 40), second)[0], "one_way_audio")


def test_an_announcement_between_music_waits_for_nobody():
    queue = Leg(60).play(0, 10, Flag.MUSIC).say(10, 18).play(18, 30, Flag.MUSIC).say(30, 38)

    assert not events(analyse(queue, Leg(60, seed=1))[0], "one_way_audio")


def test_a_leg_must_be_heard_again_after_hold_and_pressed_keys_prove_it():
    agent = Leg(40).say(1, 3).play(5, 15, Flag.MUSIC)
    customer = Leg(40, seed=1).say(3, 5).say(16, 30)
    (event,) = events(analyse(agent, customer)[0], "one_way_audio")
    assert event.leg == 0
    assert event.onset_s == pytest.approx(16, abs=0.2)

    interaction = Interaction()
    for leg, records in enumerate((Leg(20).records(), Leg(20, seed=1).say(1, 15).records())):
        interaction.begin(leg, 0)
        for record in records:
            interaction.push(leg, record)
    interaction.prove(0)
    interaction.close()
    assert not events(interaction, "one_way_audio")


def test_packets_that_stop_are_one_way_audio_even_of_a_leg_that_was_heard():
    lost = Leg(30, seed=1).say(1, 3).mark(10, 30, Flag.LOST)
    (event,) = events(analyse(Leg(30).say(11, 25), lost)[0], "one_way_audio")

    assert event.leg == 1


@pytest.mark.parametrize("noise_dbfs", [-200.0, -50.0])
def test_dead_air_is_found_whatever_noise_fills_it_and_ends_with_speech(noise_dbfs):
    found, updates = analyse(
        Leg(30, noise_dbfs=noise_dbfs).say(1, 3).say(20, 22), Leg(30, noise_dbfs=noise_dbfs, seed=1).say(3, 5)
    )

    first = events(found, "dead_air")[0]
    assert [first.onset_s, first.offset_s] == pytest.approx([5, 20], abs=0.1)
    assert min(at for at, update in updates if update.event.kind == "dead_air") <= 10.5


def test_hold_music_and_a_declared_hold_are_no_dead_air():
    music = Leg(30).say(1, 3).play(4, 28, Flag.MUSIC)
    assert not events(analyse(music, Leg(30, seed=1).say(3, 4).say(28, 29))[0], "dead_air")
    held = Leg(30).say(1, 3).mark(4, 28, Flag.HELD)
    assert not events(analyse(held, Leg(30, seed=1).say(3, 4).say(28, 29))[0], "dead_air")


def test_a_leg_that_begins_later_is_on_the_clock_of_the_call():
    found, _ = analyse(Leg(20).say(1, 10), Leg(10, seed=1).say(1, 4), offset=400)
    (event,) = events(found, "talk_over")

    assert event.onset_s == pytest.approx(9.0, abs=0.04)


def test_the_order_and_size_of_deliveries_change_nothing():
    legs = [Leg(30).say(1, 9).say(12, 20).records(), Leg(30, seed=1).say(8, 13).records()]
    answers = []
    for ahead in (0, 3, 7):
        interaction = Interaction()
        for leg in range(2):
            interaction.begin(leg, 0)
        for place in range(len(legs[0]) + ahead):
            if place < len(legs[0]):
                interaction.push(0, legs[0][place])
            if place >= ahead:
                interaction.push(1, LegRecord.decode(legs[1][place - ahead].encode()))
            interaction.advance()
        interaction.close()
        answers.append((interaction.events, [interaction.share(leg).talk_ratio for leg in range(2)]))
    assert answers[0] == answers[1] == answers[2]


def test_a_leg_that_falls_behind_is_not_waited_for_and_its_frames_are_counted():
    interaction = Interaction()
    for leg in range(2):
        interaction.begin(leg, 0)
    ahead, behind = Leg(20).say(1, 19).records(), Leg(20, seed=1).records()
    for record in ahead:
        interaction.push(0, record)
    interaction.advance()
    assert interaction.frames == 1000 - 400
    for record in behind:
        interaction.push(1, record)
    interaction.close()
    assert interaction.late_frames(1) == 600
    assert interaction.frames == 1000


def test_memory_is_constant_and_events_are_bounded(monkeypatch):
    monkeypatch.setattr("speech_qc.calls.interaction_events.MAX_EVENTS", 50)
    agent, customer = Leg(20).say(0, 3).say(10, 13).records(), Leg(20, seed=1).say(2, 5).say(12, 15).records()
    interaction = Interaction()

    def play(times: int, start: int) -> None:
        for turn in range(start, start + times):
            for first, second in zip(agent, customer, strict=True):
                for leg, record in enumerate((first, second)):
                    fields = {name: getattr(record, name) for name in record.__slots__}
                    interaction.push(leg, LegRecord(**fields | {"first_frame": turn * 1000 + record.first_frame}))
                interaction.advance()

    for leg in range(2):
        interaction.begin(leg, 0)
    play(30, 0)
    assert len(interaction.events) == 50
    assert interaction.dropped > 0
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    play(30, 30)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 300_000
