"""Mask R-CNN of tf-models-official on LambdaResNets."""
