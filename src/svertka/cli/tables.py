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
    print(f"\n{name}, {classes} classes, best epoch {result['best_epoch']} of {result['epochs']}")
    print(
        f"  trained on {images['train']} images, chosen on {images['validation']}, tested on {images['test']}"
    )
    print(f"  ({result['origin']})")
    print(f"  test accuracy   {percent(result['test']['accuracy'])}")
    print(
        f"  log loss {result['test']['log_loss']:.3f}, calibration error {100 * result['test']['ece']:.1f} %"
    )
    print(f"  time            {seconds['total']:.0f} s ({seconds['train']:.0f} s of training)")
    print(f"  run             {run}")
    print(f"\nNext:\n  svertka predict {run} IMAGE…\n  svertka evaluate {run} DATA")


def evaluated(result: dict[str, Any]) -> None:
    """Accuracy with its interval, then a row a class."""
    print(f"accuracy    {percent(result['accuracy'])}")
    if result.get("top5") is not None:
        print(f"top 5       {percent(result['top5'])}")
    print(f"log loss    {result['log_loss']:.4f}\ncalibration error {100 * result['ece']:.2f} %")
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


def cached(result: dict[str, Any]) -> None:
    """Where the cache lies and how full it is."""
    print(
        f"{result['path']}: {result['bytes'] / 1e6:,.1f} MB of at most {result['limit_bytes'] / 1e9:,.1f} GB"
    )
    for entry in result.get("entries", []):
        print(f"  {entry['bytes'] / 1e6:10,.1f} MB  {entry['path']}")


def table(head: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as they need; the first one left, the others right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD)
    for index, name in enumerate(head):
        drawn.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    Console().print(drawn)
