"""What a server counts and times, for Prometheus."""

import prometheus_client


class Metrics:
    """Counters, histograms and gauges of one server.

    Attributes:
        requests: number of requests, by `protocol`, `"v1"` or `"v2"`, and by
            the `status` of the answer.
        request_seconds: from a request's head to the end of its answer.
        images: number of images by `outcome`: `"classified"` or `"refused"`.
        batch_size: images that were computed at once.
        model_seconds: what the model took for a batch.
        waiting_images: images that are decoded or wait for the model.
        model_version: version that answers.
        failed_replacements: models that were found on disk and not loaded.
    """

    def __init__(self):
        self._registry = registry = prometheus_client.CollectorRegistry()
        # Memory, processor time and open files.
        prometheus_client.ProcessCollector(registry=registry)
        self.requests = prometheus_client.Counter(
            "lambda_keras_requests",
            "Requests to predict.",
            ["protocol", "status"],
            registry=registry,
        )
        self.request_seconds = prometheus_client.Histogram(
            "lambda_keras_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["protocol"],
            registry=registry,
        )
        self.images = prometheus_client.Counter(
            "lambda_keras_images",
            "Images, by what came of them.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("classified", "refused"):
            self.images.labels(outcome)
        self.batch_size = prometheus_client.Histogram(
            "lambda_keras_batch_size",
            "Images that the model computed at once.",
            buckets=[2**n for n in range(11)],
            registry=registry,
        )
        self.model_seconds = prometheus_client.Histogram(
            "lambda_keras_model_seconds",
            "Seconds that the model took for a batch.",
            registry=registry,
        )
        self.waiting_images = prometheus_client.Gauge(
            "lambda_keras_waiting_images",
            "Images that are decoded or wait for the model.",
            registry=registry,
        )
        self.model_version = prometheus_client.Gauge(
            "lambda_keras_model_version",
            "Version of the model that answers.",
            registry=registry,
        )
        self.failed_replacements = prometheus_client.Counter(
            "lambda_keras_failed_replacements",
            "Models that appeared on disk and could not be loaded.",
            registry=registry,
        )

    def observe_batch(self, size: int, seconds: float) -> None:
        """Notes a batch that was computed."""
        self.batch_size.observe(size)
        self.model_seconds.observe(seconds)

    def describe(self) -> bytes:
        """Returns all that is known, in Prometheus's text format."""
        return prometheus_client.generate_latest(self._registry)
