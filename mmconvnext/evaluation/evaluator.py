"""Evaluating several data sets, each by its own metric."""

from __future__ import annotations

from mmdet.evaluation.evaluator import MultiDatasetsEvaluator
from mmdet.registry import EVALUATOR


@EVALUATOR.register_module()
class MultiDatasetsAndAllEvaluator(MultiDatasetsEvaluator):
    """``MultiDatasetsEvaluator`` with further metrics, which see all data sets together.

    MMDetection's takes one metric for each data set; any beyond them never compute anything.
    """

    def evaluate(self, size: int) -> dict[str, float]:
        """Compute all metrics; ``size`` is the number of images of all data sets."""
        metrics, count = self.metrics, len(self.dataset_prefixes)
        self.metrics = metrics[:count]
        results = super().evaluate(size)
        self.metrics = metrics
        for metric in metrics[count:]:
            results.update(metric.evaluate(size))
        return results
