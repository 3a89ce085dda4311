"""Layout of a corpus of clips, as HuMoSet has it: names of its folders, files and columns.

`humo.synthetic.corpus` writes it and `humo.training.dataset` reads it; the contents are described there.
"""

VIDEOS = "video"
"""Folder of ID.mp4."""

REFERENCES = "reference_image"
"""Folder of ID.png, the reference images."""

CAPTIONS = "video_caption.parquet"
"""Table of captions."""

TRUTH = "truth"
"""Folder of ground truth: ID.npz and `ATTRIBUTES`."""

ATTRIBUTES = "attributes.parquet"
"""Table in `TRUTH`: split and attributes of each clip."""

ID = "id"
"""Column of both tables that names the clip."""

PARAPHRASES = "paraphrases"
"""Column of `CAPTIONS`: further captions, lists of texts."""

SPLIT = "split"
"""Column of `ATTRIBUTES`: the clip's split."""
