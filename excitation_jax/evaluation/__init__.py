"""The papers' experiments on their data sets: any number of images, devices and processes.

`runner` goes through a data set and keeps a record of every image in a `store` on disk, which a
kill at any moment leaves usable; what makes the records is an experiment. `pointing` is the
pointing game, whose scores are a pure function of the records; `points` finds where maps are
largest, on the devices; `tables` writes the scores as the papers do, `published` has what they and
TorchRay report, and `plots` draws each category's. To look at maps, `choice` takes some pairs,
`again` computes their maps once more, `drawing` draws them, and `pair_gallery` has `gallery` write
a page. `boxes` draws boxes of dominant objects; `text` ranks boxes that `proposals` makes by the
maps of phrases. The command line is `excitation-jax eval`.

Modules are imported by name: what they need is installed by
``pip install "excitation-jax[eval]"``.
"""
