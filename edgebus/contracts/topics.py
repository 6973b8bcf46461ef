"""The framework's own topics; those of workloads and third parties are found by `registry`.

``{base}/{site}`` stands in front of each pattern. The publisher's identity is the prefix, so one
broker ACL (``edgebus/+/%u/#``) gives a device its own subtree and nothing else. Commands are the
exception: ``…/{service}/cmd/{verb}`` is written by controllers, and an answer may go below the
prefix of who asked (`REPLY`).
"""

from __future__ import annotations

from typing import Final

from edgebus.contracts.control import (
    CaptureCommand,
    DeadLetter,
    Metrics,
    ModelListCommand,
    ModelListReply,
    PublishCommand,
    Reply,
    RetrainCommand,
    RollbackCommand,
    ServiceState,
)
from edgebus.contracts.models import (
    BlockRequest,
    Candidate,
    ModelStatus,
    Release,
    RolloutStatus,
    StoreStatus,
    TrainingProgress,
    TrainingResult,
)
from edgebus.contracts.payload import RawBytes
from edgebus.contracts.samples import Drift
from edgebus.contracts.topic import CommandTopic, Topic

MODEL_STATUS: Final = Topic(
    "{node}/{service}/model",
    ModelStatus,
    qos=1,
    retain=True,
    doc="Model version that a service serves, and its progress with the next.",
)
STREAM_MODEL: Final = Topic(
    "{node}/{service}/streams/{stream}/model",
    ModelStatus,
    qos=1,
    retain=True,
    doc="As the above, of a stream that has a model of its own.",
)
DRIFT: Final = Topic(
    "{node}/{service}/{stream}/drift",
    Drift,
    qos=1,
    doc="A statistic of a stream's inputs, or of the model's predictions, is not what it was.",
)
STORE_STATUS: Final = Topic(
    "{node}/{service}/store",
    StoreStatus,
    qos=1,
    retain=True,
    doc="Contents of the sample store, and what the trigger waits for.",
)
TRAINING_PROGRESS: Final = Topic(
    "{node}/{service}/jobs/{job}/progress",
    TrainingProgress,
    qos=0,
    doc="Progress of a training job.",
)
TRAINING_RESULT: Final = Topic(
    "{node}/{service}/jobs/{job}/result",
    TrainingResult,
    qos=1,
    retain=True,
    doc="Result of a training job, with the gate's figures.",
)
CANDIDATE: Final = Topic(
    "{node}/{service}/candidates/{model}",
    Candidate,
    qos=1,
    retain=True,
    doc="The newest candidate of a model that passed the gate.",
)
RELEASE: Final = Topic(
    "{node}/{service}/models/{model}/{channel}",
    Release,
    qos=1,
    retain=True,
    doc="The version that the edges of a channel shall serve.",
)
ROLLOUT: Final = Topic(
    "{node}/{service}/rollouts/{model}/{channel}",
    RolloutStatus,
    qos=1,
    retain=True,
    doc="Progress of a release on the edges of its channel.",
)
BLOCK_REQUEST: Final = Topic(
    "{node}/{service}/block-requests",
    BlockRequest,
    qos=1,
    durable=False,  # asked again as long as blocks are missing
    doc="A service asks a provider for blocks that it lacks.",
)
BLOCK: Final = Topic(
    "{node}/{service}/blocks/{digest}/{index}",
    RawBytes,
    qos=1,
    durable=False,  # sent again to whoever asks again
    doc="One block of a blob, raw; sent once for all who asked for it.",
)
SERVICE_STATE: Final = Topic(
    "{node}/{service}/state",
    ServiceState,
    qos=1,
    retain=True,
    doc="State of a service; the broker publishes offline for it when it is gone.",
)
SERVICE_METRICS: Final = Topic(
    "{node}/{service}/metrics",
    Metrics,
    qos=0,
    doc="Counters, gauges, CPU and memory of a service.",
)
DEAD_LETTER: Final = Topic(
    "{node}/{service}/deadletter/{letter}",
    DeadLetter,
    qos=1,
    retain=True,
    doc="A message that could not be handled, and why; the last 16 of a service are kept.",
)
DEAD_LETTER_PAYLOAD: Final = Topic(
    "{node}/{service}/deadletter/{letter}/payload",
    RawBytes,
    qos=1,
    retain=True,
    doc="The bytes of that message, as they were.",
)
REPLY: Final = Topic(
    "{node}/{service}/replies/{request}",
    Reply,
    qos=1,
    durable=False,  # the one who asked has given up long before
    doc="The answer to a command, below the prefix of who asked or of who answers; see `reply_to`.",
)
CMD_CAPTURE: Final = CommandTopic(
    "{node}/{service}/cmd/capture",
    CaptureCommand,
    reply=Reply,
    doc="Send the next input of a stream as a sample.",
)
CMD_RETRAIN: Final = CommandTopic(
    "{node}/{service}/cmd/retrain",
    RetrainCommand,
    reply=Reply,
    doc="Start a training job now.",
)
CMD_PUBLISH: Final = CommandTopic(
    "{node}/{service}/cmd/publish",
    PublishCommand,
    reply=Reply,
    doc="Take a bundle over and release it to a channel.",
)
CMD_ROLLBACK: Final = CommandTopic(
    "{node}/{service}/cmd/rollback",
    RollbackCommand,
    reply=Reply,
    doc="Release an earlier version again.",
)
CMD_MODELS: Final = CommandTopic(
    "{node}/{service}/cmd/models",
    ModelListCommand,
    reply=ModelListReply,
    doc="List the registry's versions.",
)
