"""Every view against torchvision for the same numbers, and the distribution of the numbers."""

import dataclasses
import resource
from pathlib import Path

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor
from torchvision.transforms import InterpolationMode

from pipeline.params.pretrain_views import Views
from pipeline.params.reader import Params
from pipeline.training import views
from pipeline.training.resampling import crop_and_resize, rotate_and_shear
from pipeline.training.views import ViewDraw, apply_view, draw_view, make_views
from tests.processes import start

SIDE = 32


@pytest.fixture
def images() -> Tensor:
    """Smooth random images in colour: where coordinates are off by a hair, values are too."""
    noise = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, SIDE, mode="bicubic").clamp(0, 1)


@pytest.fixture
def everything(params: Params) -> Views:
    """All operations on, each on half of the images."""
    half = {"p": 0.5}
    jitter = {"p": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    values = params.pretrain.views.model_dump() | {
        "size": SIDE,
        "horizontal_flip": half,
        "vertical_flip": half,
        "affine": {"p": 0.5, "degrees": 20.0, "shear": 10.0},
        "color_jitter": jitter,
        "grayscale": half,
        "blur": {"p": 0.5, "sigma": {"low": 0.1, "high": 2.0}},
        "solarize": {"p": 0.5, "threshold": 0.5},
    }
    return Views.model_validate(values)


def whole_image(num_images: int = 8) -> ViewDraw:
    """The draw that leaves an image as it is."""
    zeros, ones = torch.zeros(num_images), torch.ones(num_images)
    return ViewDraw(
        box=torch.tensor([[0.0, 0.0, SIDE, SIDE]]).repeat(num_images, 1),
        flip=zeros.bool(),
        vertical_flip=zeros.bool(),
        degrees=zeros,
        shear=zeros,
        brightness=ones,
        contrast=ones,
        saturation=ones,
        hue=zeros,
        grayscale=zeros.bool(),
        sigma=torch.full([num_images], views._NO_BLUR),
        solarize=zeros.bool(),
    )


def crop(images: Tensor, box: Tensor, size: int) -> Tensor:
    """The boxes [B, 4] of images, resized and not flipped."""
    upright = torch.zeros(len(images), dtype=torch.bool)
    return crop_and_resize(images, box, upright, upright, size)


def spread(low: float, high: float) -> Tensor:
    """A different parameter for each of the eight images."""
    return torch.linspace(low, high, 8)


def test_a_neutral_draw_changes_nothing(images: Tensor, everything: Views) -> None:
    torch.testing.assert_close(apply_view(images, whole_image(), everything), images, atol=1e-5, rtol=0)


BOXES = [(0, 0, 32, 32), (4, 8, 16, 16), (1, 2, 20, 28), (10, 3, 9, 13), (0, 16, 16, 16)]
BOXES += [(20, 20, 12, 12), (5, 5, 24, 10), (7, 0, 25, 31)]


@pytest.mark.parametrize("size", [12, 24, SIDE, 40])
def test_crops_are_torchvisions_and_antialiased_where_they_shrink(size: int) -> None:
    noise = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    views = crop(noise, torch.tensor(BOXES, dtype=torch.float32), size)
    for image, box, actual in zip(noise, BOXES, views, strict=True):
        expected = tv.resized_crop(image, *box, size=[size, size], antialias=True)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_stripes_too_fine_for_a_view_are_grey_in_it() -> None:
    """Every second column white: a view of half the width that reads single pixels is white, or black."""
    stripes = (torch.arange(SIDE) % 2).float().expand(1, 3, SIDE, SIDE)
    view = crop(stripes, torch.tensor([[0.0, 0.5, SIDE, SIDE - 1]]), SIDE // 2)
    torch.testing.assert_close(view, torch.full_like(view, 0.5), atol=0.1, rtol=0)


def test_a_crop_between_pixels_moves_the_image_by_that_part() -> None:
    ramp = torch.arange(SIDE, dtype=torch.float32).expand(1, 3, SIDE, SIDE) / SIDE
    columns = crop(ramp, torch.tensor([[0.0, 3.25, SIDE, 8.0]]), 8)[0, 0, 0] * SIDE
    torch.testing.assert_close(columns, torch.arange(8) + 3.25, atol=1e-4, rtol=0)


def test_rotation_and_shear_are_torchvisions(images: Tensor) -> None:
    images = torch.nn.functional.pad(images[..., 8:-8, 8:-8], [8] * 4)  # black around: no edge to differ in
    degrees, shear = spread(-30, 40), spread(20, -15)
    for index, actual in enumerate(rotate_and_shear(images, whole_image().box, degrees, shear)):
        expected = tv.affine(
            images[index],
            angle=degrees[index].item(),
            translate=[0, 0],
            scale=1.0,
            shear=[shear[index].item(), 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_crop_then_rotation_then_flip_is_torchvisions_order(images: Tensor, everything: Views) -> None:
    images = torch.nn.functional.pad(images[..., 8:-8, 8:-8], [8] * 4)
    box = (8, 2, 16, 28)  # not square: turned before it is resized, it would be another picture
    draw = dataclasses.replace(
        whole_image(),
        box=torch.tensor([box] * 8, dtype=torch.float32),
        degrees=torch.full([8], 15.0),
        shear=torch.full([8], 5.0),
        flip=torch.ones(8, dtype=torch.bool),
    )
    # turned and then resized blurs otherwise than resized and then turned: less so at a larger size
    larger = everything.model_copy(update={"size": 96})
    for image, actual in zip(images, apply_view(images, draw, larger), strict=True):
        step = tv.resized_crop(image, *box, size=[96, 96], antialias=True)
        step = tv.affine(step, 15.0, [0, 0], 1.0, [5.0, 0.0], interpolation=InterpolationMode.BILINEAR)
        expected = tv.horizontal_flip(step)
        assert (actual - expected).abs().mean() < 0.03
        assert (actual - expected.flip(-1)).abs().mean() > 0.2


def test_flips_are_torchvisions_and_only_of_the_chosen(images: Tensor) -> None:
    flip, vertical = torch.arange(8) % 2 == 0, torch.arange(8) % 3 == 0
    views = crop_and_resize(images, whole_image().box, flip, vertical, SIDE)
    for row, (image, actual) in enumerate(zip(images, views, strict=True)):
        expected = tv.horizontal_flip(image) if flip[row] else image
        expected = tv.vertical_flip(expected) if vertical[row] else expected
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (views.adjust_brightness, tv.adjust_brightness, 0.2, 2.0),
        (views.adjust_contrast, tv.adjust_contrast, 0.0, 2.0),
        (views.adjust_saturation, tv.adjust_saturation, 0.0, 2.0),
        (views.adjust_hue, tv.adjust_hue, -0.5, 0.5),
    ],
)
def test_colour_is_torchvisions(images: Tensor, ours, theirs, low: float, high: float) -> None:  # type: ignore[no-untyped-def]
    factors = spread(low, high)
    for image, factor, actual in zip(images, factors, ours(images, factors), strict=True):
        torch.testing.assert_close(actual, theirs(image, factor.item()), atol=2e-5, rtol=0)


def test_grey_pixels_have_no_hue_to_turn() -> None:
    grey = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)).expand(8, 3, 4, 4)
    torch.testing.assert_close(views.adjust_hue(grey, spread(-0.5, 0.5)), grey)


def test_grayscale_is_torchvisions(images: Tensor) -> None:
    torch.testing.assert_close(views.luma(images), tv.rgb_to_grayscale(images))


@pytest.mark.parametrize(("side", "kernel"), [(SIDE, 5), (224, 23)])  # a tenth of the side, and odd
def test_blur_is_torchvisions(side: int, kernel: int) -> None:
    images = torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(0))
    sigmas = spread(0.1, 2.0)
    for image, sigma, actual in zip(images, sigmas, views.gaussian_blur(images, sigmas), strict=True):
        expected = tv.gaussian_blur(image, [kernel, kernel], [sigma.item()] * 2)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def blur_and_note_the_peak(num_images: int, side: int, noted_in: Path) -> None:
    """In a new process: whose peak no earlier test has raised."""
    images = torch.rand(num_images, 3, side, side).contiguous(memory_format=torch.channels_last)
    sigma = torch.rand(num_images) + 0.5
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    views.gaussian_blur(images, sigma)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    noted_in.write_text(str(grown * 1024 / images.nbytes))


def test_a_blur_takes_the_memory_of_a_few_batches_and_not_of_one_a_tap(tmp_path: Path) -> None:
    process = start(blur_and_note_the_peak, 32, 224, tmp_path / "peak")
    process.join()
    assert process.exitcode == 0
    # the blurred batch itself, and what it is summed from; the kernel has 23 taps
    assert float((tmp_path / "peak").read_text()) < 4


def test_solarise_is_torchvisions_and_only_of_the_chosen(images: Tensor, everything: Views) -> None:
    solarize = torch.arange(8) < 4
    actual = apply_view(images, dataclasses.replace(whole_image(), solarize=solarize), everything)
    expected = torch.cat([tv.solarize(images[:4], 0.5), images[4:]])
    # a value within rounding of the threshold may fall on either side of it
    clear = (images - 0.5).abs() > 1e-4
    torch.testing.assert_close(actual[clear], expected[clear], atol=1e-4, rtol=0)


def test_colour_comes_in_the_documented_order(images: Tensor, everything: Views) -> None:
    draw = dataclasses.replace(
        whole_image(),
        brightness=spread(0.6, 1.4),
        contrast=spread(1.4, 0.6),
        saturation=spread(0.7, 1.3),
        hue=spread(-0.1, 0.1),
        sigma=spread(0.1, 2.0),
        grayscale=torch.arange(8) == 3,
    )
    for i, actual in enumerate(apply_view(images, draw, everything)):
        step = tv.adjust_brightness(images[i], draw.brightness[i].item())
        step = tv.adjust_contrast(step, draw.contrast[i].item())
        step = tv.adjust_saturation(step, draw.saturation[i].item())
        step = tv.adjust_hue(step, draw.hue[i].item())
        step = tv.rgb_to_grayscale(step, num_output_channels=3) if draw.grayscale[i] else step
        expected = tv.gaussian_blur(step, [5, 5], [draw.sigma[i].item()] * 2)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_every_image_has_its_own_draw_and_its_own_make_views(everything: Views) -> None:
    one_image = torch.randint(0, 256, (1, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0))
    batch = one_image.to(torch.uint8).repeat(16, 1, 1, 1)
    view0, view1 = make_views(batch, everything, torch.Generator().manual_seed(1))
    all_views = torch.cat([view0, view1]).flatten(1)
    assert len(all_views.unique(dim=0)) == 32


def test_the_same_seed_gives_the_same_views_and_another_gives_others(everything: Views) -> None:
    batch = torch.randint(0, 256, (4, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0)).byte()
    first, again, other = (
        make_views(batch, everything, torch.Generator().manual_seed(seed))[0] for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_views_have_the_promised_shape_range_and_memory(everything: Views) -> None:
    batch = torch.randint(0, 256, (4, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0)).byte()
    smaller = everything.model_copy(update={"size": 24})
    for view in make_views(batch, smaller, torch.Generator().manual_seed(0)):
        assert view.shape == (4, 3, 24, 24)
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert view.min() >= 0
        assert view.max() <= 1


def test_draws_are_distributed_as_the_params_say(everything: Views) -> None:
    num_images = 40_000
    draw = draw_view(everything, num_images, 40, 32, torch.Generator().manual_seed(0))
    # a share of 0.5 in 40,000 draws has a standard error of 0.0025
    for happened in (
        draw.flip,
        draw.vertical_flip,
        draw.grayscale,
        draw.solarize,
        draw.sigma > views._NO_BLUR,
        draw.degrees != 0,
    ):
        assert happened.float().mean().item() == pytest.approx(0.5, abs=0.0125)
    jittered = draw.brightness != 1
    assert jittered.float().mean().item() == pytest.approx(0.5, abs=0.0125)
    assert torch.equal(jittered, draw.hue != 0)  # one coin for the whole jitter
    for values, low, high in [
        (draw.brightness[jittered], 0.6, 1.4),
        (draw.hue[jittered], -0.1, 0.1),
        (draw.degrees[draw.degrees != 0], -20, 20),
        (draw.shear[draw.shear != 0], -10, 10),
        (draw.sigma[draw.sigma > views._NO_BLUR], 0.1, 2.0),
    ]:
        assert low <= values.min() <= low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) <= values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))


def test_crop_boxes_lie_in_the_image_and_cover_the_drawn_share(everything: Views) -> None:
    values = everything.model_dump()
    values["crop"] = {"p": 1.0, "scale": {"low": 0.2, "high": 0.5}, "ratio": {"low": 0.75, "high": 4 / 3}}
    draw = draw_view(Views.model_validate(values), 20_000, 32, 32, torch.Generator().manual_seed(0))
    top, left, height, width = draw.box.unbind(1)
    assert torch.stack([top, left, 32 - top - height, 32 - left - width]).min() >= -1e-4
    # no box of at most half the area and 4:3 is too long, so area and ratio are uniform and log-uniform
    share = height * width / 32**2
    assert share.mean().item() == pytest.approx(0.35, abs=0.005)
    assert share.min().item() == pytest.approx(0.2, abs=0.001)
    assert (width / height).log().mean().item() == pytest.approx(0, abs=0.01)
    assert (width / height).max().item() == pytest.approx(4 / 3, abs=0.001)


def test_a_box_too_long_for_the_image_ends_at_its_edge(everything: Views) -> None:
    values = everything.model_dump()
    values["crop"] = {"p": 1.0, "scale": {"low": 0.9, "high": 1.0}, "ratio": {"low": 2.0, "high": 3.0}}
    draw = draw_view(Views.model_validate(values), 100, 32, 32, torch.Generator().manual_seed(0))
    assert torch.equal(draw.box[:, 3], torch.full([100], 32.0))


def test_without_a_crop_the_box_is_the_image(everything: Views) -> None:
    values = everything.model_dump()
    values["crop"]["p"] = 0.0
    draw = draw_view(Views.model_validate(values), 10, 40, 32, torch.Generator().manual_seed(0))
    assert torch.equal(draw.box, torch.tensor([[0.0, 0.0, 40.0, 32.0]]).repeat(10, 1))
