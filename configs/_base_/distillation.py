# What a Faster, Mask or Cascade R-CNN learns from a larger one beside its own losses. A config that
# inherits this and a student's names the teacher's config and checkpoint, or its work folder as
# config alone. feature=None or logits=None leaves one out.
teacher = dict(
    config=None,
    checkpoint=None,
    # "PKD" (arXiv 2207.02039), its weight of each FPN level; those that regions are pooled from.
    feature=dict(type="PKDLoss", loss_weight=6.0),
    # Chen et al. (NeurIPS 2017): the student's regions classified from the teacher's features.
    logits=dict(type="SoftTargetLoss", temperature=1.0, background_weight=1.5, loss_weight=1.0),
)
