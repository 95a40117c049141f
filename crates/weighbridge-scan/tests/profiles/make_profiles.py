"""Writes rules/profiles/sklearn.toml and rules/profiles/torch_weights_only.toml.

    python make_profiles.py CLASSES.json... --torch LISTS.json

CLASSES.json are outputs of sklearn_classes.py, one a version of scikit-learn. LISTS.json maps
versions of torch to the names that its _get_allowed_globals() gives (torch_lists.py).

What goes in by rule: classes written in Python that are built without calling them, and whose
__setstate__ sets attributes and nothing else; extension types that rebuild themselves from
numbers and arrays; functions that are kept as attributes and called by nobody while loading.
"""

import argparse
import collections
import json
import pathlib
import textwrap

OUT = pathlib.Path(__file__).resolve().parents[2] / "rules" / "profiles"

# Parts of scikit-learn that no fitted model holds, or that do something when they are built:
# callbacks open listeners, data sets are files.
LEFT_OUT = (
    "sklearn.callback", "sklearn.datasets", "sklearn.exceptions", "sklearn.inspection",
    "sklearn.metrics._plot", "sklearn.utils", "sklearn.metrics._pairwise_distances_reduction",
)
# What of sklearn.utils fitted models do hold.
KEPT = {
    "sklearn.utils Bunch", "sklearn.utils._bunch Bunch", "sklearn.utils.fixes MaskedArray",
    "sklearn.utils._encode _nandict", "sklearn.utils._encode MissingValues",
    "sklearn.utils._encode _NaNCounter", "sklearn.utils.deprecation DeprecationDict",
    "sklearn.utils._metadata_requests MetadataRequest",
    "sklearn.utils._metadata_requests MethodMetadataRequest",
    "sklearn.utils._metadata_requests MetadataRouter",
    "sklearn.utils._metadata_requests MethodMapping",
    "sklearn.utils._metadata_requests MethodPair",
    "sklearn.utils._metadata_requests RouterMappingPair",
}
# __setstate__ methods that were read and found to set attributes only.
READ_SETSTATE = {
    "", "sklearn.base.BaseEstimator", "sklearn.isotonic.IsotonicRegression",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn.utils.Bunch",
    "sklearn.utils._bunch.Bunch", "numpy.ma.core.MaskedArray",
}
# Extension types that are called with plain values when they are unpickled.
CALLED = ("sklearn._loss", "sklearn.tree", "sklearn.linear_model.sgd_fast",
          "sklearn.linear_model._sgd_fast", "sklearn.neighbors.quad_tree",
          "sklearn.neighbors._quad_tree", "sklearn.ensemble._hist_gradient_boosting.common")
BUILT = ("sklearn.neighbors", "sklearn.metrics._dist_metrics", "sklearn.utils._fast_dict")
# The names under which extension modules call themselves.
LOSSES = [
    "CyAbsoluteError", "CyExponentialLoss", "CyHalfBinomialLoss", "CyHalfGammaLoss",
    "CyHalfMultinomialLoss", "CyHalfPoissonLoss", "CyHalfSquaredError", "CyHalfTweedieLoss",
    "CyHalfTweedieLossIdentity", "CyHuberLoss", "CyPinballLoss",
]
CALLS = {
    module: LOSSES + [f"__pyx_unpickle_{c}" for c in LOSSES]
    for module in ("_loss", "sklearn._loss._loss")
} | {
    module: ["newObj"]
    for module in (
        "sklearn.metrics._dist_metrics", "sklearn.neighbors._ball_tree",
        "sklearn.neighbors._dist_metrics", "sklearn.neighbors._kd_tree",
        "sklearn.neighbors.ball_tree", "sklearn.neighbors.dist_metrics",
        "sklearn.neighbors.kd_tree", "sklearn.neighbors._binary_tree",
    )
}
METRICS = [
    "accuracy_score", "balanced_accuracy_score", "brier_score_loss", "classification_report",
    "cohen_kappa_score", "confusion_matrix", "d2_log_loss_score", "f1_score", "fbeta_score",
    "hamming_loss", "hinge_loss", "jaccard_score", "log_loss", "matthews_corrcoef",
    "multilabel_confusion_matrix", "precision_recall_fscore_support", "precision_score",
    "recall_score", "zero_one_loss", "class_likelihood_ratios",
]
RANKING = [
    "auc", "average_precision_score", "coverage_error", "dcg_score", "det_curve",
    "label_ranking_average_precision_score", "label_ranking_loss", "ndcg_score",
    "precision_recall_curve", "roc_auc_score", "roc_curve", "top_k_accuracy_score",
]
REGRESSION = [
    "d2_absolute_error_score", "d2_pinball_score", "d2_tweedie_score",
    "explained_variance_score", "max_error", "mean_absolute_error",
    "mean_absolute_percentage_error", "mean_gamma_deviance", "mean_pinball_loss",
    "mean_poisson_deviance", "mean_squared_error", "mean_squared_log_error",
    "mean_tweedie_deviance", "median_absolute_error", "r2_score", "root_mean_squared_error",
    "root_mean_squared_log_error",
]
PAIRWISE = [
    "additive_chi2_kernel", "chi2_kernel", "cosine_distances", "cosine_similarity",
    "euclidean_distances", "haversine_distances", "laplacian_kernel", "linear_kernel",
    "manhattan_distances", "nan_euclidean_distances", "paired_distances", "pairwise_distances",
    "pairwise_kernels", "polynomial_kernel", "rbf_kernel", "sigmoid_kernel",
]
SELECTION = ["chi2", "f_classif", "f_oneway", "f_regression", "r_regression"]
INFORMATION = ["mutual_info_classif", "mutual_info_regression"]
IMPORTS = {
    "sklearn.metrics._classification": METRICS, "sklearn.metrics.classification": METRICS,
    "sklearn.metrics._ranking": RANKING, "sklearn.metrics.ranking": RANKING,
    "sklearn.metrics._regression": REGRESSION, "sklearn.metrics.regression": REGRESSION,
    "sklearn.metrics.pairwise": PAIRWISE,
    "sklearn.metrics": METRICS + RANKING + REGRESSION,
    "sklearn.metrics._scorer": ["_passthrough_scorer"],
    "sklearn.metrics.scorer": ["_passthrough_scorer"],
    "sklearn.cluster._kmeans": ["_kmeans_single_lloyd", "_kmeans_single_elkan", "k_means"],
    "sklearn.feature_selection": SELECTION + INFORMATION,
    "sklearn.feature_selection._univariate_selection": SELECTION,
    "sklearn.feature_selection.univariate_selection": SELECTION,
    "sklearn.feature_selection._mutual_info": INFORMATION,
    "sklearn.feature_selection.mutual_info_": INFORMATION,
    "sklearn.gaussian_process.correlation_models":
        ["absolute_exponential", "cubic", "generalized_exponential", "linear", "pure_nugget",
         "squared_exponential"],
    "sklearn.gaussian_process.regression_models": ["constant", "linear", "quadratic"],
    "sklearn.model_selection._search_successive_halving": ["_refit_callable"],
    "sklearn.preprocessing._function_transformer": ["_identity"],
    "sklearn.utils.validation": ["check_array"],
}


def listed(names):
    body = ", ".join(f'"{n}"' for n in sorted(set(names)))
    if len(body) < 80:
        return f"[{body}]"
    lines = textwrap.wrap(body, 94, break_long_words=False, break_on_hyphens=False)
    return "[\n" + "".join(f"    {line.strip().rstrip(',')},\n" for line in lines) + "]"


def table(module, **lists):
    out = f'\n[[profile.globals]]\nmodule = "{module}"\n'
    for key, names in lists.items():
        if isinstance(names, str):
            out += f'{key} = "{names}"\n'
        elif names:
            out += f"{key} = {listed(names)}\n"
    return out


def sort_class(key, c):
    """`call`, `construct` or None."""
    module = key.split(" ")[0]
    if c.get("delete"):
        return None
    if any(module == m or module.startswith(m + ".") for m in LEFT_OUT) and key not in KEPT:
        return None
    enum = "enum.Enum" in c["base"]
    if c["heap"] and not enum:
        read = c["set"] in READ_SETSTATE or c["set"].startswith("sklearn.neighbors")
        return "construct" if read else None
    starts = lambda prefixes: any(module == p or module.startswith(p + ".") for p in prefixes)
    if enum or starts(CALLED):
        return "call"
    return "construct" if starts(BUILT) else None


def sklearn(paths):
    found = {}
    for path in paths:
        found.update(json.loads(pathlib.Path(path).read_text()))
    modules = collections.defaultdict(lambda: collections.defaultdict(list))
    for key, c in found.items():
        how = sort_class(key, c)
        if how:
            module, name = key.split(" ")
            modules[module][how].append(name)
    for names, how in ((CALLS, "call"), (IMPORTS, "import")):
        for module, more in names.items():
            modules[module][how].extend(more)
    # Older files name the class by the place it moved from.
    modules["sklearn.datasets.base"]["construct"].append("Bunch")
    text = HEAD.format("scikit-learn 0.19.2, 0.24.2, 1.0.2, 1.2.2, 1.3.2, 1.5.2, 1.7.2, 1.9.1")
    text += (
        '\n[[profile]]\nname = "sklearn"\n'
        'about = "Estimators of scikit-learn and what they hold, under the module paths of all its versions."\n'
        'source = "the classes of scikit-learn 0.19.2 to 1.9.1: built without calling them, their __setstate__ sets attributes"\n'
    )
    for module in sorted(modules):
        m = modules[module]
        called = set(m["call"])
        built = set(m["construct"]) - called
        text += table(module, call=m["call"], construct=built, **{"import": m["import"]})
    (OUT / "sklearn.toml").write_text(text)


HEAD = "# Made by tests/profiles/make_profiles.py from {}; do not edit.\n"


def torch(path):
    lists = json.loads(pathlib.Path(path).read_text())
    versions = list(lists)
    short = lambda v: ".".join(v.split(".")[:2])
    groups = collections.defaultdict(list)
    for name in sorted(set().union(*lists.values())):
        having = [v for v in versions if name in lists[v]]
        since = short(having[0]) if having[0] != versions[0] else ""
        until = short(having[-1]) if having[-1] != versions[-1] else ""
        module, leaf = name.rsplit(".", 1)
        plain = module == "torch" and not leaf[0].isupper() and leaf != "device"
        groups[module, since, until].append((leaf, "import" if plain else "call"))
    text = HEAD.format(f"torch {versions[0]} to {versions[-1]}")
    text += (
        '\n[[profile]]\nname = "torch-weights-only"\n'
        'about = "What torch.load(weights_only=True) accepts, by version of torch."\n'
        f'source = "torch {versions[0]} to {versions[-1]}, torch/_weights_only_unpickler.py, _get_allowed_globals"\n'
    )
    for (module, since, until), names in sorted(groups.items()):
        lists_ = {how: [n for n, h in names if h == how] for how in ("call", "import")}
        bounds = {k: v for k, v in (("since", since), ("until", until)) if v}
        text += table(module, **bounds, **lists_)
    (OUT / "torch_weights_only.toml").write_text(text)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("classes", nargs="*")
    args.add_argument("--torch")
    args = args.parse_args()
    if args.classes:
        sklearn(args.classes)
    if args.torch:
        torch(args.torch)


if __name__ == "__main__":
    main()
