"""Instances: why telling identical objects apart takes position.

    loss = discriminative_loss(embedding, labels)
    objects = cluster(embedding[0], foreground)
    study = run_instances(quick=True)

The command ``probe instances`` runs the experiment and writes its report.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
