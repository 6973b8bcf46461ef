import asyncio
import errno

import pytest
from pydantic import ValidationError

from collector_examples import MODEL, box, detections, frame, truth
from edgebus.contracts import CaptureCommand, ServiceState, new_id, split_of, topics, utc_now
from edgebus.contracts.topics import CMD_CAPTURE, DRIFT
from edgebus.service import ServiceFailedError
from edgebus.service.testing import ServiceHarness
from edgebus_collector import Collector, CollectorSettings, sending
from edgebus_collector.spool import Spool
from edgebus_detection.messages import (
    CAMERA_FRAME,
    CAMERA_TRUTH,
    DETECTIONS,
    FEEDBACK,
    SAMPLES,
    Feedback,
    Frame,
    FrameRecord,
)
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import encode_jpeg

TRAIN = [index for index in range(400) if split_of("front", index) == "train"]
HOLDOUT = [index for index in range(400) if split_of("front", index) == "holdout"]


def settings(**changes):
    return CollectorSettings(duplicate_distance=-1, receiver=None, **changes)


def harness(config=None, **options):
    return ServiceHarness(Collector, config or settings(), **options)


async def film(h, index, *, said=(), true=None, camera="front", node="pi-01"):
    """One frame as camera and detector send it."""
    of = frame(index, camera)
    if true is not None:
        await h.publish(CAMERA_TRUTH.at(h.node(node), camera=camera), truth(of, *true))
    await h.publish(CAMERA_FRAME.at(h.node(node), camera=camera), of)
    await h.publish(DETECTIONS.at(h.node(node), camera=camera), detections(of, *said, model=MODEL))
    return of


async def test_a_missed_object_becomes_a_sample():
    async with harness() as h:
        of = await film(h, TRAIN[0], true=[box()])
        sample = (await h.expect(SAMPLES)).payload
        assert sample.record.input == of.record.id
        assert sample.record.policy == "truth"
        assert sample.record.reason == "1 of 1 missed (car)"
        assert sample.record.source == "lab/pi-01/collector"
        await film(h, TRAIN[1], said=[box(score=0.9)], true=[box()])
        await film(h, HOLDOUT[0], true=[box()], camera="front")
        await film(h, TRAIN[2], true=[box("person")])
        assert (await h.expect(SAMPLES)).payload.record.index in {TRAIN[2], HOLDOUT[0]}


async def test_other_nodes_cameras_are_not_its_business():
    async with harness() as h:
        await film(h, TRAIN[0], true=[box()], node="pi-02")
        await film(h, TRAIN[1], true=[box()])
        assert (await h.expect(SAMPLES)).payload.record.index == TRAIN[1]


async def test_without_truth_the_expected_error_decides():
    async with harness(settings(policies={"truth": {}, "expected": {"share": 1.0}})) as h:
        await film(h, TRAIN[0], said=[box(score=0.9)])
        await film(h, TRAIN[1], said=[box(score=0.35), box(x=60.0, score=0.2)])
        record = (await h.expect(SAMPLES)).payload.record
        assert (record.index, record.policy, record.truth) == (TRAIN[1], "expected", None)


async def test_a_command_takes_the_next_frame():
    async with harness(settings(policies={"truth": {}})) as h:
        ask = CaptureCommand(source="lab/test/test", stream="front")
        unknown = await h.request(CMD_CAPTURE, ask)
        assert not unknown.ok
        assert "no stream 'front' on this node; known: none yet" in unknown.detail
        await film(h, TRAIN[0], true=[])
        ask = CaptureCommand(source="lab/test/test", stream="front")
        reply = await h.request(CMD_CAPTURE, ask)
        assert reply.ok
        await film(h, TRAIN[1], true=[])
        record = (await h.expect(SAMPLES)).payload.record
        assert (record.policy, record.index) == ("command", TRAIN[1])


async def until(condition, what):
    """Poll what no event tells: the disk."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


def retrainer_state(state):
    return ServiceState(
        source="lab/gpu/retrainer",
        state=state,
        session=1,
        instance="i",
        since=utc_now(),
        version="1",
    )


async def test_samples_wait_for_a_receiver_and_survive_a_restart(tmp_path):
    config = CollectorSettings(duplicate_distance=-1)
    spool = tmp_path / "collector" / "spool"
    async with harness(config, data_dir=tmp_path) as h:
        for index in TRAIN[:3]:
            await film(h, index, true=[box()])
        await until(lambda: len(list(spool.glob("*.sample"))) == 3, "the spool")
        assert h.received(SAMPLES) == []
    async with harness(config, data_dir=tmp_path) as h:
        address = topics.SERVICE_STATE.at(h.node("gpu"), service="retrainer")
        await h.publish(address, retrainer_state("ready"))
        sent = [(await h.expect(SAMPLES)).payload.record.index for _ in range(3)]
        assert sent == TRAIN[:3]
        await until(lambda: not list(spool.iterdir()), "the spool")
        await h.publish(address, retrainer_state("offline"))
        await until(lambda: not h.service._alive, "the receiver")
        await film(h, TRAIN[3], true=[box()])
        await until(lambda: len(list(spool.glob("*.sample"))) == 1, "the spool")
        assert h.received(SAMPLES) == []


async def test_a_full_spool_is_said_and_frames_are_still_looked_at(tmp_path):
    config = CollectorSettings(
        duplicate_distance=-1, spool={"max_samples": 2, "overflow": "drop_newest"}
    )
    async with harness(config, data_dir=tmp_path) as h:
        for index in TRAIN[:3]:
            await film(h, index, true=[box()])
        state = await h.wait_for_state("degraded")
        assert "does not fit" in state.reason


async def test_a_corrupt_spool_file_is_dropped_and_the_rest_is_sent(tmp_path):
    spool = tmp_path / "collector" / "spool"
    spool.mkdir(parents=True)
    (spool / f"{new_id()}.sample").write_bytes(b"\xff\xd8 cut")
    async with harness(data_dir=tmp_path) as h:
        await film(h, TRAIN[0], true=[box()])
        await h.expect(SAMPLES)
        await until(lambda: not list(spool.iterdir()), "the spool")


async def test_a_disk_that_cannot_be_read_for_a_while_costs_no_sample(tmp_path, monkeypatch):
    read, failed = sending._read, []

    def unreadable(path, kind):
        if len(failed) < 3:
            failed.append(path)
            raise OSError(errno.EMFILE, "Too many open files")
        return read(path, kind)

    monkeypatch.setattr(sending, "_read", unreadable)
    monkeypatch.setattr(sending, "_REFUSED_REST_S", 0.01)
    async with harness(data_dir=tmp_path) as h:
        await film(h, TRAIN[0], true=[box()])
        said = await h.wait_for_state("degraded")
        assert "samples stay on disk: [Errno 24] Too many open files" in said.reason
        assert (await h.expect(SAMPLES)).payload.record.index == TRAIN[0]
        await h.wait_for_state("ready")
    assert len(failed) == 3


async def test_a_disk_that_cannot_be_written_to_ends_no_collector(tmp_path, monkeypatch):
    remove, failed = Spool.remove, []

    def read_only(self, sample):
        if not failed:
            failed.append(sample)
            raise OSError(errno.EROFS, "Read-only file system")
        remove(self, sample)

    monkeypatch.setattr(Spool, "remove", read_only)
    async with harness(data_dir=tmp_path) as h:
        await film(h, TRAIN[0], true=[box()])
        said = await h.wait_for_state("degraded")
        assert "Read-only file system" in said.reason
        await film(h, TRAIN[1], true=[box()])
        await h.wait_for_state("ready")


def test_a_typo_in_a_policy_is_a_settings_error_that_names_the_nearest():
    with pytest.raises(ValidationError, match="did you mean 'truth'"):
        settings(policies={"trut": {}})


def test_a_reference_model_needs_a_policy_that_looks_at_it_and_the_other_way_round():
    with pytest.raises(ValidationError, match=r"set reference_model\.model to its path"):
        settings(policies={"disagreement": {}})
    with pytest.raises(ValidationError, match="add one, such as disagreement"):
        settings(reference_model={"model": "teacher.onnx"})


def test_shares_that_leave_nothing_for_hard_frames_are_refused():
    with pytest.raises(ValidationError, match="leave nothing for hard inputs"):
        settings(budget={"holdout_share": 0.6, "audit_share": 0.4})


async def speak(h, device="phone", **fields):
    await h.publish(FEEDBACK.at(h.node(device)), Feedback(**fields))


async def test_what_an_operator_says_of_a_frame_becomes_a_sample():
    async with harness(settings(policies={"truth": {}})) as h:
        of = await film(h, TRAIN[0], said=[box(score=0.9)], true=[box()])
        await film(h, TRAIN[1], said=[box(score=0.9)], true=[box()])
        await until(lambda: len(h.service._history) == 2, "both frames")
        await speak(h, camera="front", verdict="label", box=0, label="van", frame=of.record.id)
        record = (await h.expect(SAMPLES)).payload.record
        assert (record.policy, record.input) == ("feedback", of.record.id)
        assert record.reason == "an operator says: label (van)"
        assert [(said.verdict, said.box, said.label) for said in record.feedback] == [
            ("label", 0, "van")
        ]
        # A second word on the same frame comes with the first.
        await speak(h, camera="front", verdict="missed", node="pi-01", frame=of.record.id)
        record = (await h.expect(SAMPLES)).payload.record
        assert [said.verdict for said in record.feedback] == ["label", "missed"]


async def test_feedback_for_another_node_and_about_nothing_is_harmless():
    async with harness(settings(policies={"truth": {}})) as h:
        await film(h, TRAIN[0], said=[box(score=0.9)], true=[box()])
        await until(lambda: len(h.service._history) == 1, "the frame")
        await speak(h, camera="front", verdict="wrong", node="pi-02")
        await speak(h, camera="garden", verdict="wrong")
        await speak(h, camera="garden", verdict="wrong", node="pi-01")
        await speak(h, camera="front", verdict="wrong_box", box=7)
        await speak(h, camera="front", verdict="wrong", note="this one counts")
        record = (await h.expect(SAMPLES)).payload.record
        assert record.feedback[0].note == "this one counts"
        counters = h.service.metrics.snapshot().counters
        assert (counters["feedback.unknown"], counters["feedback.invalid"]) == (1, 1)


async def test_an_automation_that_runs_wild_is_bounded():
    config = settings(policies={"truth": {}}, budget={"feedback_per_minute": 2.0})
    async with harness(config) as h:
        await film(h, TRAIN[0], said=[box(score=0.9)], true=[box()])
        await until(lambda: len(h.service._history) == 1, "the frame")
        for number in range(10):
            await speak(h, "pi-evil", camera="front", verdict="wrong", note=str(number))
        await h.expect(SAMPLES)
        metrics = h.service.metrics
        await until(lambda: metrics.snapshot().counters.get("feedback.too_much") == 9, "the rest")
        assert h.received(SAMPLES) == []
        # It had half of what there is; an operator has the other half.
        await speak(h, camera="front", verdict="wrong", note="a person")
        assert (await h.expect(SAMPLES)).payload.record.feedback[-1].note == "a person"


@pytest.mark.parametrize(
    ("allowed", "device", "index", "counts"),
    [
        (None, "phone", TRAIN[0], True),
        (None, "phone", HOLDOUT[0], False),
        (None, "pi-01", HOLDOUT[0], True),
        (("phone",), "phone", HOLDOUT[0], True),
        (("phone",), "pi-evil", HOLDOUT[0], False),
        (("phone",), "pi-evil", TRAIN[0], False),
    ],
)
async def test_who_may_judge_what(allowed, device, index, counts):
    """What is measured on is labelled by nobody who just happens to be on the site."""
    config = settings(policies={"truth": {}}, feedback_from=allowed, holdout_share=0.0)
    async with harness(config) as h:
        of = await film(h, index, said=[box(score=0.9)], true=[box()])
        await until(lambda: len(h.service._history) == 1, "the frame")
        # Without the frame's id the newest frame is meant.
        for frame in (of.record.id, None):
            await speak(h, device, camera="front", verdict="wrong", frame=frame, note=str(frame))
        counters = h.service.metrics.snapshot
        name = "feedback" if counts else "feedback.not_allowed"
        await until(lambda: counters().counters.get(name) == 2, name)
        if counts:
            await h.expect(SAMPLES)
        else:
            assert h.received(SAMPLES) == []


async def test_a_camera_whose_people_refused_is_never_collected_from():
    config = settings(
        stream={"consent": "given", "retention": "30d"}, streams={"front": {"consent": "refused"}}
    )
    async with harness(config) as h:
        await film(h, TRAIN[0], true=[box()])
        ask = CaptureCommand(source="lab/test/test", stream="front")
        reply = await h.request(CMD_CAPTURE, ask)
        assert (reply.ok, "consent is 'refused'" in reply.detail) == (False, True)
        await speak(h, camera="front", verdict="wrong")
        index = next(i for i in range(400) if split_of("back", i) == "train")
        await film(h, index, true=[box()], camera="back")
        record = (await h.expect(SAMPLES)).payload.record
        assert (record.stream, record.consent, record.retention) == ("back", "given", "30d")
        assert h.received(SAMPLES) == []


async def test_drift_is_told_and_every_sample_says_so():
    config = settings(
        policies={"confidence": {}}, drift={"calibration": 30, "statistics": ["confidence"]}
    )
    async with harness(config) as h:
        scores = [0.8 + 0.01 * (index % 5) for index in range(60)] + [0.3] * 30
        for index, score in enumerate(scores):
            await film(h, index, said=[box(score=score)])
        drift = (await h.expect(DRIFT)).payload
        assert (drift.stream, drift.statistic, drift.model) == ("front", "confidence", MODEL)
        assert drift.before == pytest.approx(0.82, abs=0.02)
        assert drift.after == pytest.approx(0.3, abs=0.1)
        assert not drift.returned
        assert 60 <= drift.index <= 80
        late = await h.expect(SAMPLES, where=lambda event: event.payload.record.index > drift.index)
        assert late.payload.record.drift.drifted == ("confidence",)
        assert late.payload.record.drift.since == drift.since
        assert late.payload.record.policy_scores == pytest.approx({"confidence": 0.7})
        await until(
            lambda: h.service.metrics.snapshot().gauges.get("drift.streams") == 1, "the gauge"
        )


def red_square(index):
    """A frame with a red square, which the tiny model knows as a person."""
    record = FrameRecord(
        source="lab/pi-01/camera",
        camera="front",
        index=index,
        captured=utc_now(),
        width=64,
        height=48,
    )
    return Frame.build(encode_jpeg(tiny_picture(), quality=95), record)


async def test_a_reference_model_finds_what_the_first_one_missed(tmp_path):
    reference = {"model": tiny_bundle(tmp_path / "reference").path, "share": 1.0}
    config = settings(policies={"confidence": {}, "disagreement": {}}, reference_model=reference)
    async with harness(config) as h:
        for index in (HOLDOUT[1], TRAIN[0]):
            of = red_square(index)
            await h.publish(CAMERA_FRAME.at(h.node("pi-01"), camera="front"), of)
            answer = detections(of, model=MODEL)
            await h.publish(DETECTIONS.at(h.node("pi-01"), camera="front"), answer)
        sample = await h.expect(
            SAMPLES, where=lambda event: event.payload.record.policy == "disagreement"
        )
        record = sample.payload.record
        assert (record.index, record.split) == (TRAIN[0], "train")
        assert record.reason == "the reference model sees 2 more and denies 0 of 0"
        assert h.service.metrics.snapshot().counters["reference.count"] == 1


async def test_a_reference_model_that_is_not_there_is_said_at_the_start(tmp_path):
    config = settings(
        policies={"disagreement": {}}, reference_model={"model": tmp_path / "gone.onnx"}
    )
    with pytest.raises(ServiceFailedError, match=r"gone\.onnx"):
        async with harness(config):
            pass
