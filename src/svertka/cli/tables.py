"""How results look to a person: short sentences and tables on stdout."""

from __future__ import annotations

from typing import Any

MOST_CLASSES = 30


def percent(interval: dict[str, Any]) -> str:
    """`97.2 % (95 % interval 95.0 to 98.5, 401 images)`."""
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{100 * interval['value']:.1f} % (95 % interval {low:.1f} to {high:.1f}, {interval['n']} images)"


def trained(result: dict[str, Any]) -> None:
    """What `train` and `demo` say at the end, and what to do next."""
    images, seconds, run = result["images"], result["seconds"], result["run"]
    name, classes = result["model"], len(result["classes"])
    how = f"best epoch {result['best_epoch']} of {result['epochs']}"
    how = how if result["best_epoch"] else "a linear probe on its frozen features"
    print(f"\n{name}, {classes} classes, {how}")
    print(
        f"  trained on {images['train']} images, chosen on {images['validation']}, tested on {images['test']}"
    )
    print(f"  ({result['origin']})")
    if test := result["test"]:
        print(f"  test accuracy   {percent(test['accuracy'])}")
        print(f"  log loss {test['log_loss']:.3f}, calibration error {100 * test['ece']:.1f} %")
    else:
        print("  test accuracy   not measured: no images were kept for it (data.test = 0)")
    print(f"  time            {seconds['total']:.0f} s ({seconds['train']:.0f} s of training)")
    print(f"  run             {run}")
    print(f"\nNext:\n  svertka predict {run} IMAGE…\n  svertka evaluate {run} DATA")


def planned(result: dict[str, Any]) -> None:
    """A line a part of the schedule, and where it is drawn."""
    for part in result["parts"]:
        peak, last = part["peak"], part["last"]
        print(f"{part['name']}: {part['steps']:,} steps, rate up to {peak:.3g}, at the end {last:.3g}")
    print(f"drawn: {result['file']}\nNothing was trained.")


def rates(result: dict[str, Any]) -> None:
    """The range, the recipe's own rate, and that nothing was applied."""
    low, high = result["range"]
    print(f"rates worth trying: {low:.2g} to {high:.2g}; lowest loss at {result['turning']:.2g}")
    print(f"the recipe's is {result['recipe']:g}; nothing was changed")
    print(f"drawn: {result['file']}\nTry: --set optimizer.learning_rate={high:.2g}")


def evaluated(result: dict[str, Any]) -> None:
    """Accuracy with its interval, then a row a class."""
    print(f"accuracy    {percent(result['accuracy'])}")
    if result.get("top5") is not None:
        print(f"top 5       {percent(result['top5'])}")
    print(f"log loss    {result['log_loss']:.4f}\ncalibration error {100 * result['ece']:.2f} %")
    if gain := result.get("gain"):
        low, high, cost = 100 * gain["low"], 100 * gain["high"], gain["cost"]
        print(
            print(f"gain        {100 * gain['value']:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})")
        )
        print(f"            answer of {gain['over']}; {gain['answers']} answers cost {cost:.1f} × the time")
    if result["left_out"]:
        print(f"left out    {result['left_out']} images that the run has seen in training")
    if result["broken"]:
        print(f"broken      {result['broken']} images")
    rows = result["per_class"]
    table(
        ["class", "precision", "recall", "F1", "images"],
        [[r["name"], f"{r['precision']:.3f}", f"{r['recall']:.3f}", f"{r['f1']:.3f}", str(r["support"])]
         for r in rows[:MOST_CLASSES]],
    )  # fmt: skip
    if len(rows) > MOST_CLASSES:
        print(f"… {len(rows) - MOST_CLASSES} more classes (--json has all)")


def predicted(result: dict[str, Any]) -> None:
    """A line an image: the class and its probability, then the next ones."""
    for item in result["predictions"]:
        if item["error"]:
            print(f"{item['path']}: {item['error']}")
            continue
        first, *others = item["classes"]
        rest = ", ".join(f"{c['name']} {100 * c['probability']:.1f} %" for c in others[:2])
        print(f"{item['path']}: {first['name']} {100 * first['probability']:.1f} %  ({rest})")


def models(result: list[dict[str, Any]]) -> None:
    """A row an architecture."""
    head = ["name", "family", "year", "parameters", "MACs", "input", "top-1", "weights"]
    rows = [
        [m["name"], m["family"], str(m["year"] or ""), count(m["parameters"]), count(m["macs"]),
         f"{m['input']} px", f"{m['top1']:.1f} %" if m["top1"] else "", few(m["weights"])]
        for m in result
    ]  # fmt: skip
    table(head, rows)


def inspected(result: dict[str, Any]) -> None:
    """A row a layer, then the totals."""
    head = ["layer", "kind", "output", "parameters", "MACs", "memory", "field", "stride"]
    rows = [
        [layer["name"], layer["kind"], " × ".join(map(str, layer["output"])), count(layer["parameters"]),
         count(layer["macs"]), f"{layer['activation_bytes'] / 1024:,.0f} KiB",
         f"{layer['receptive_field']} px" + (" (gate: all)" if layer["gated"] else ""),
         str(layer["stride"] or "")]
        for layer in result["layers"]
    ]  # fmt: skip
    table(head, rows)
    shape = " × ".join(map(str, result["input"]))
    sizes = f"{count(result['parameters'])} parameters, {count(result['macs'])} MACs"
    print(f"{result['model']} for {shape}: {sizes},")
    memory = result["activation_bytes"] / 2**20
    print(f"{result['depth']} weighted layers deep, {memory:.1f} MiB of activations an image,")
    print(f"receptive field before the pool {result['receptive_field']} px")
    for file in result["files"]:
        print(f"drawn: {file}")


def few(names: list[str]) -> str:
    """The first two names, and how many more there are."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def count(number: float | None) -> str:
    """Three digits and a unit: 61.7 k, 11.7 M, 1.81 G; nothing for what is not known."""
    if number is None:
        return ""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def cached(result: dict[str, Any]) -> None:
    """Where the cache lies and how full it is."""
    print(
        f"{result['path']}: {result['bytes'] / 1e6:,.1f} MB of at most {result['limit_bytes'] / 1e9:,.1f} GB"
    )
    for entry in result.get("entries", []):
        print(f"  {entry['bytes'] / 1e6:10,.1f} MB  {entry['path']}")


def table(head: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as they need and never folded; the first one left, the others right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, ["─" * width for width in widths], *rows]:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *others]).rstrip())
