"""Watch a stream of texts with a published classifier: ``python -m components.monitor``.

No step of the pipeline: it runs where the model is served, in the image of the inference steps.
`suanli monitor` starts it in a process of its own, so that the author's side loads no runtime.
"""
