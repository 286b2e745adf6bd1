"""The part of the schemas of JobSet and SkyPilot that `launch/` uses.

They allow no other field, so that a wrong name or place is found. From the
definitions of jobset.x-k8s.io/v1alpha2 with batch/v1 Job and v1 PodSpec, and
from SkyPilot 0.14 (sky/utils/schemas.py).
"""

from typing import Any

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
# Of labels, annotations and selectors.
WORDS = {"type": "object", "additionalProperties": TEXT}


def fields(*required: str, **properties: Any) -> dict[str, Any]:
  """An object with these fields and no others."""
  return {
    "type": "object",
    "properties": properties,
    "required": list(required),
    "additionalProperties": False,
  }


def items(schema: dict, fewest: int = 1) -> dict[str, Any]:
  """A list."""
  return {"type": "array", "items": schema, "minItems": fewest}


CONTAINER = fields(
  "name",
  "image",
  name=NAME,
  image=TEXT,
  args=items({"type": "string"}),
  securityContext=fields(privileged={"type": "boolean"}),
  ports=items(fields("containerPort", containerPort=COUNT)),
  envFrom=items(
    fields(
      secretRef=fields("name", name=NAME, optional={"type": "boolean"}),
    )
  ),
  resources=fields(
    limits={"type": "object", "additionalProperties": COUNT},
  ),
)
POD = fields(
  "containers",
  restartPolicy={"enum": ["Never"]},
  terminationGracePeriodSeconds=COUNT,
  nodeSelector=WORDS,
  tolerations=items(
    fields("key", "operator", key=TEXT, operator={"enum": ["Exists"]})
  ),
  hostNetwork={"type": "boolean"},
  dnsPolicy={"enum": ["ClusterFirst", "ClusterFirstWithHostNet"]},
  containers=items(CONTAINER),
)
EXIT_CODES = fields(
  "operator",
  "values",
  containerName=NAME,
  operator={"enum": ["In", "NotIn"]},
  values=items({"type": "integer", "minimum": 1, "maximum": 255}),
)
CONDITION = fields(
  "type", "status", type=TEXT, status={"enum": ["True", "False", "Unknown"]}
)
JOB = fields(
  "template",
  parallelism=COUNT,
  completions=COUNT,
  backoffLimit=COUNT,
  podFailurePolicy=fields(
    "rules",
    rules=items(
      fields(
        "action",
        action={"enum": ["FailJob", "Ignore", "Count", "FailIndex"]},
        onExitCodes=EXIT_CODES,
        onPodConditions=items(CONDITION),
      )
    ),
  ),
  template=fields("spec", metadata=fields(labels=WORDS), spec=POD),
)
JOBSET = fields(
  "apiVersion",
  "kind",
  "metadata",
  "spec",
  apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
  kind={"const": "JobSet"},
  metadata=fields("name", name=NAME, labels=WORDS, annotations=WORDS),
  spec=fields(
    "replicatedJobs",
    failurePolicy=fields(
      maxRestarts=COUNT,
      rules=items(
        fields(
          "name",
          "action",
          name=TEXT,
          action={
            "enum": [
              "FailJobSet",
              "RestartJobSet",
              "RestartJobSetAndIgnoreMaxRestarts",
            ]
          },
          onJobFailureReasons=items(
            {
              "enum": [
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "FailedIndexes",
                "MaxFailedIndexesExceeded",
                "PodFailurePolicy",
              ]
            }
          ),
        )
      ),
    ),
    replicatedJobs=items(
      fields(
        "name",
        "template",
        name=NAME,
        replicas=COUNT,
        template=fields("spec", spec=JOB),
      )
    ),
  ),
)

CODE = {"type": "integer", "minimum": 0, "maximum": 255}
SKYPILOT = fields(
  name=TEXT,
  num_nodes={"type": "integer", "minimum": 1},
  workdir=TEXT,
  setup=TEXT,
  run=TEXT,
  resources=fields(
    accelerators=TEXT,
    use_spot={"type": "boolean"},
    job_recovery=fields(
      recover_on_exit_codes=items(CODE), max_restarts_on_errors=COUNT
    ),
  ),
)
