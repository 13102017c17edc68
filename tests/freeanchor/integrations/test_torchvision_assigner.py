"""Any assigner in torchvision's RetinaNet: its matcher is replaced, and nothing else."""

import copy
import pickle

import pytest
import torch
from test_torchvision_integration import NO_OBJECTS, _gradients, _images, _lively, _model, _targets

from freeanchor.integrations.torchvision import use_assigner, use_focal_loss, use_free_anchor
from freeanchor.losses import ATSS, TAL, IoUThresholds, SimOTA
from freeanchor.losses.assignment import Assigner

ASSIGNERS = [IoUThresholds(), ATSS(candidates_per_level=3), SimOTA(), TAL()]
each_assigner = pytest.mark.parametrize("assigner", ASSIGNERS, ids=lambda one: type(one).__name__)


def _terms(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return model.train()(_images(), _targets())


def test_iou_thresholds_are_torchvisions_own_matcher() -> None:
    """With RetinaNet's rule both terms and every gradient are torchvision's to the bit."""
    found = []
    for model in (_lively(_model()), use_assigner(_lively(_model()), IoUThresholds())):
        terms = _terms(model)
        sum(terms.values()).backward()
        found.append((terms, _gradients(model)))
    (theirs, their_gradients), (ours, our_gradients) = found
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(our_gradients[name], gradient) for name, gradient in their_gradients.items())


@each_assigner
def test_the_anchors_it_names_are_those_that_are_matched(assigner: Assigner) -> None:
    """torchvision's head is given what the assigner says of the images' anchors, levels, strides and predictions."""
    model, seen = use_assigner(_lively(_model()), assigner).train(), []

    class Spy:
        def assign(self, anchors, gt_boxes, gt_labels=None, **given):
            found = assigner.assign(anchors, gt_boxes, gt_labels, **given)
            seen.append((len(anchors), given["level_sizes"], given["strides"].unique().tolist(), (found >= 0).sum()))
            return found

    model.compute_loss.assigner = Spy()
    terms = model(_images(), [*_targets()[:1], NO_OBJECTS])
    assert all(torch.isfinite(term) for term in terms.values())
    (number, sizes, strides, matched), (*_, none) = seen
    assert sum(sizes) == number and len(sizes) == 2 and strides == [8.0, 16.0]
    assert matched > 0 and none == 0


@each_assigner
def test_copies_and_pickles_keep_it(assigner: Assigner) -> None:
    """A copy has its own model in the loss; it goes on by the same assigner."""
    model = use_assigner(_lively(_model()), assigner)
    expected = _terms(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.compute_loss.model is other
        terms = _terms(other)
        assert all(torch.equal(terms[name], value) for name, value in expected.items())


def test_it_is_taken_back() -> None:
    """By use_focal_loss, by use_free_anchor and by another assigner, without traces."""
    model, plain = use_assigner(_lively(_model()), ATSS()), _terms(_lively(_model()))
    use_assigner(model, TAL())
    assert len(model.anchor_generator._forward_hooks) == 1
    use_free_anchor(model)
    assert not model.anchor_generator._forward_hooks
    assert set(_terms(model)) == {"positive", "negative"}
    use_focal_loss(use_assigner(model, SimOTA()))
    assert not model.anchor_generator._forward_hooks and "compute_loss" not in vars(model)
    assert set(_terms(model)) == set(plain)


def test_a_class_in_the_place_of_an_assigner_is_refused() -> None:
    """What is easily forgotten are the brackets."""
    with pytest.raises(TypeError, match="expected an assigner such as ATSS"):
        use_assigner(_model(), ATSS)
