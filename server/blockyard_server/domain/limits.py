"""Every limit of the service, by name. The protos state them for clients; a test sends one more of each."""

from typing import Final

MAX_ID_LENGTH: Final = 63
MAX_TOKEN_LENGTH: Final = 64
MAX_HOLDER_LENGTH: Final = 256

MAX_LABELS: Final = 64
MAX_LABEL_KEY_LENGTH: Final = 128
MAX_LABEL_VALUE_LENGTH: Final = 253
MAX_RESOURCES: Final = 32
MAX_QUANTITY: Final = 2**62
MAX_ANNOTATIONS: Final = 32
MAX_ANNOTATION_VALUE_LENGTH: Final = 1024
MAX_ANNOTATIONS_BYTES: Final = 8 * 1024

MAX_BLOCKS_PER_INSTANCE: Final = 4096
MAX_DEMANDS: Final = 64
MAX_INSTANCES_PER_REQUEST: Final = 1000
MAX_BLOCKS_PER_REQUEST: Final = 16_384
MAX_INSTANCE_NAMES: Final = 1000
MAX_SELECTOR_LABELS: Final = 64
MAX_SELECTOR_EXPRESSIONS: Final = 32
MAX_EXPRESSION_VALUES: Final = 256
MAX_SELECTOR_VALUES_PER_REQUEST: Final = 8192
"""Labels, expressions without a value and values in the selectors of all demands, and instance names, together; in a
batch those of all acquires."""
MAX_SHAPES_PER_REQUEST: Final = 100_000
"""Different (total_blocks, resources) of the fleet's instances, times different requirements of a request that the
server does not remember. One set of requirements is always looked at."""
MAX_BATCH_OPERATIONS: Final = 1000

MIN_TTL_US: Final = 100_000
MAX_TTL_US: Final = 366 * 24 * 3600 * 1_000_000

MIN_PROGRESS_INTERVAL_US: Final = 100_000
DEFAULT_PROGRESS_INTERVAL_US: Final = 10 * 1_000_000
MAX_PROGRESS_INTERVAL_US: Final = 3600 * 1_000_000

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000
MAX_PAGE_BYTES: Final = 2 * 1024 * 1024
"""A page ends once its rows have so many bytes: gRPC clients accept 4 MiB by default."""
MAX_PAGE_HELD_BLOCKS: Final = 4096
"""A FULL page of Describe ends once it has named this many held blocks."""

MAX_FLEETS: Final = 10_000
MAX_INSTANCES_PER_FLEET: Final = 200_000
MAX_INSTANCES_DELETED_WITH_FLEET: Final = 4096
"""One request deletes no more, so that it does not keep other fleets waiting for longer than a large grant does."""

MAX_DISCREPANCIES: Final = 1000
"""How many differences one Verify reports."""
MAX_CORRECTIONS: Final = 1000
"""How many changes one Repair makes; more need a further one."""
