"""Trees of every kind that a report is made of."""

import xarray as xr

HOSTILE = "<script>document.title = 'broken'</script>" + "long" * 40


def shared(run_tree, methods=("exact", "hard-em"), **options):
    """A comparison on the same data, with what there is to show."""
    attrs = {"class_names": ["zero", HOSTILE, "two", "three"]}
    if options.pop("picture", False):
        attrs["image_shape"] = [1, 5]
    runs = {
        f"{method}/seed_0": run_tree(
            attrs=attrs | {"method": method}, level=-0.5 - i, **options
        )
        for i, method in enumerate(methods)
    }
    tree = xr.DataTree.from_dict(runs)
    tree.attrs["task"] = "toy"
    return tree


def lacking(tree):
    """Without router, inputs, targets, predictions."""
    routing = tree["routing"].to_dataset().drop_vars("router_probs")
    routing["route_probs"].values[:] = routing["route_probs"].values[0]  # as of static
    tree["routing"].dataset = routing
    tree["constant_data"].dataset = tree["constant_data"].to_dataset().drop_vars("x")
    for group in ("predictive_probs", "posterior_predictive"):
        del tree[group]
    return tree


CASES = {
    "classes": lambda run, both: shared(run, known=True),
    "pictures": lambda run, both: shared(run, picture=True),
    "numbers": lambda run, both: run(classes=None, outputs=3),
    "one layer": lambda run, both: run(n_choices=(3,)),
    "one module": lambda run, both: run(n_choices=(1,)),
    "16 modules": lambda run, both: run(n_choices=(16,) * 4, known=True),
    "slots": lambda run, both: run(
        n_choices=(4,) * 6, names=[f"route_{i}_{k}" for i in range(3) for k in (0, 1)]
    ),
    "a failure": lambda run, both: both(failed=[("exact", 1)]),
    "all failed": lambda run, both: both(["exact"], [0], failed=[("exact", 0)]),
    "many methods": lambda run, both: both([f"method-{i}" for i in range(9)], [0, 1]),
    "no router": lambda run, both: lacking(run()),
}
