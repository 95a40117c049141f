"""Fits the estimators of scikit-learn and of gradient boosting libraries that are installed, makes
pandas tables and NumPy and SciPy values, and writes each by every pickle protocol and by joblib.

    python make_models.py FOLDER

Files of several versions are in this folder as <version of scikit-learn>-<name>; all that the
script writes must scan clean. What an environment cannot make is left out, with a line on standard
error.
"""

import sys, os, pickle, warnings, io, json, traceback
warnings.filterwarnings("ignore")
import numpy as np
import sklearn, joblib
from sklearn import datasets
out = sys.argv[1]; os.makedirs(out, exist_ok=True)
try:
    from sklearn.utils import all_estimators
except ImportError:
    from sklearn.utils.testing import all_estimators
rng = np.random.RandomState(0)
X = rng.rand(30, 4); yc = np.arange(30) % 3; yb = np.arange(30) % 2; yr = rng.rand(30)
yr2 = rng.rand(30, 2); ym = (rng.rand(30, 3) > .5).astype(int)
Xpos = np.abs(X) + .1; Xint = rng.randint(0, 3, (30, 4)); text = ["a b c d", "b c e", "d e f g"] * 10
from sklearn.linear_model import LogisticRegression, LinearRegression, Ridge
from sklearn.tree import DecisionTreeClassifier
docs = [dict(a=1, b=2.0), dict(c=3)] * 15
attempts = [(X, yc), (X, yb), (X, yr), (X, yr2), (X, ym), (Xpos, yc), (Xint, yc), (X[:, 0], yr), (text, yc), (docs, yc), (list(yc), None), (X, None), (X[:20,:].dot(X[:20,:].T) , yc[:20])]
def variants(cls):
    name = cls.__name__
    base = LogisticRegression() if 'Class' in name or name in ('SelfTrainingClassifier','CalibratedClassifierCV','RFE','RFECV','SelectFromModel','SequentialFeatureSelector','FixedThresholdClassifier','TunedThresholdClassifierCV','OneVsRestClassifier','OneVsOneClassifier','OutputCodeClassifier','ClassifierChain','MultiOutputClassifier') else Ridge()
    yield lambda: cls()
    for kw in (dict(estimator=base), dict(base_estimator=base), dict(estimator=base, param_grid={}), dict(estimator=LogisticRegression(), param_grid={'C':[1,2]}), dict(estimator=LogisticRegression(), param_distributions={'C':[1,2]}, n_iter=2),
               dict(estimators=[('a', LogisticRegression()), ('b', DecisionTreeClassifier(max_depth=2))]), dict(estimators=[('a', LinearRegression()), ('b', Ridge())]),
               dict(transformer_list=[('a', sklearn.preprocessing.StandardScaler())]), dict(transformers=[('a', sklearn.preprocessing.StandardScaler(), [0, 1])]), dict(steps=[('s', sklearn.preprocessing.StandardScaler()), ('l', LogisticRegression())]),
               dict(dictionary=rng.rand(3,4)), dict(regressor=Ridge(), func=np.log1p, inverse_func=np.expm1), dict(estimator=LogisticRegression(), threshold=.5)):
        yield lambda kw=kw: cls(**kw)
import sklearn.preprocessing
made = []
def dump(name, est):
    made.append((name, est))
for name, cls in all_estimators():
    done = False
    for mk in variants(cls):
        try: est = mk()
        except Exception: continue
        for k in ('n_estimators', 'max_iter', 'n_components', 'n_clusters', 'max_depth', 'n_init','n_quantiles', 'max_bins','cv'):
            try:
                if k in est.get_params(): est.set_params(**{k: {'n_estimators': 3, 'max_iter': 20, 'n_components': 2, 'n_clusters': 2, 'max_depth': 2, 'n_init': 1, 'n_quantiles': 5,'max_bins':8,'cv':2}[k]})
            except Exception: pass
        for a in attempts:
            try:
                est.fit(*a) if a[1] is not None else est.fit(a[0])
                try: pickle.dumps(est)
                except Exception: continue
                dump(name, est); done = True; break
            except Exception: pass
        if done: break
    if not done: print("no", name, file=sys.stderr)
# particular values
def extra(name, fn):
    try: dump("x_" + name, fn())
    except Exception as e: print("no extra", name, repr(e)[:100], file=sys.stderr)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, FunctionTransformer
from sklearn.svm import SVC, LinearSVC
from sklearn.ensemble import *
from sklearn.neighbors import *
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as K
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, KFold, ShuffleSplit, TimeSeriesSplit, RepeatedKFold, StratifiedShuffleSplit, GroupKFold, LeaveOneOut, PredefinedSplit, StratifiedKFold
import sklearn.metrics
extra("pipe", lambda: make_pipeline(StandardScaler(), SVC(probability=True)).fit(X, yc))
extra("func", lambda: FunctionTransformer(np.log1p).fit(X))
extra("func2", lambda: FunctionTransformer(np.exp, inverse_func=np.log, validate=True).fit(X))
import scipy.special, scipy.sparse as sp
extra("func3", lambda: FunctionTransformer(scipy.special.expit).fit(X))
for i, k in enumerate([K.RBF(), K.Matern(), K.WhiteKernel() + K.ConstantKernel() * K.RationalQuadratic(), K.ExpSineSquared(), K.DotProduct(), K.Exponentiation(K.RBF(), 2), K.PairwiseKernel(), K.CompoundKernel([K.RBF()])]):
    extra("gpr%d" % i, lambda: GaussianProcessRegressor(kernel=k, optimizer=None).fit(X[:8], yr[:8]))
for a in ('ball_tree', 'kd_tree', 'brute'):
    for m in ('euclidean', 'manhattan', 'chebyshev', 'minkowski', 'cosine', 'hamming', 'canberra', 'braycurtis', 'seuclidean'):
        extra("knn_%s_%s" % (a, m), lambda: KNeighborsClassifier(algorithm=a, metric=m, n_neighbors=2).fit(X, yc))
for loss in ('deviance', 'exponential', 'log_loss'):
    extra("gbc_" + loss, lambda: GradientBoostingClassifier(loss=loss, n_estimators=2).fit(X, yb))
for loss in ('ls', 'lad', 'huber', 'quantile', 'squared_error', 'absolute_error'):
    extra("gbr_" + loss, lambda: GradientBoostingRegressor(loss=loss, n_estimators=2).fit(X, yr))
try:
    from sklearn.experimental import enable_hist_gradient_boosting
except Exception: pass
try:
    from sklearn.ensemble import HistGradientBoostingRegressor, HistGradientBoostingClassifier
    for loss in ('squared_error', 'least_squares', 'absolute_error', 'poisson', 'quantile', 'gamma'):
        extra("hgbr_" + loss, lambda: HistGradientBoostingRegressor(loss=loss, max_iter=2, min_samples_leaf=2, **({'quantile': .5} if loss == 'quantile' else {})).fit(X, yr))
    extra("hgbc2", lambda: HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=2).fit(X, yb))
    extra("hgbc3", lambda: HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=2, early_stopping=True).fit(X, yc))
except Exception: pass
from sklearn.linear_model import SGDClassifier, SGDRegressor, Perceptron, LogisticRegressionCV
for loss in ('hinge', 'log', 'log_loss', 'modified_huber', 'squared_hinge', 'perceptron', 'squared_error', 'huber', 'epsilon_insensitive', 'squared_epsilon_insensitive'):
    extra("sgd_" + loss, lambda: SGDClassifier(loss=loss, max_iter=5).fit(X, yc))
for c in ('gini', 'entropy', 'log_loss'):
    extra("dt_" + c, lambda: DecisionTreeClassifier(criterion=c, max_depth=2).fit(X, yc))
for s in ('accuracy', 'roc_auc', 'neg_mean_squared_error', 'f1_macro', 'r2', 'neg_log_loss'):
    extra("gs_" + s, lambda: GridSearchCV(Ridge() if s in ('neg_mean_squared_error', 'r2') else LogisticRegression(), {}, scoring=s, cv=2).fit(X, yb))
import scipy.stats
extra("rs", lambda: RandomizedSearchCV(LogisticRegression(), {'C': scipy.stats.uniform(.1, 1), 'max_iter': scipy.stats.randint(10, 20)}, n_iter=2, cv=2, random_state=0).fit(X, yb))
extra("gs_scorer", lambda: GridSearchCV(LogisticRegression(), {'C': [1, 2]}, scoring=sklearn.metrics.make_scorer(sklearn.metrics.fbeta_score, beta=2), cv=StratifiedKFold(2)).fit(X, yb))
for cv in (KFold(2), ShuffleSplit(2), TimeSeriesSplit(2), RepeatedKFold(n_splits=2, n_repeats=2), StratifiedShuffleSplit(2), GroupKFold(2), LeaveOneOut(), PredefinedSplit([0, 1])):
    extra("cv_" + type(cv).__name__, lambda: cv)
from sklearn.feature_extraction.text import *
extra("tfidf", lambda: TfidfVectorizer(stop_words='english').fit(text))
extra("count", lambda: CountVectorizer(analyzer='char', ngram_range=(1, 2)).fit(text))
try:
    from sklearn.compose import ColumnTransformer, make_column_selector
except Exception: pass
extra("ct", lambda: ColumnTransformer([('a', StandardScaler(), slice(0, 2)), ('b', 'passthrough', [2])], remainder='drop').fit(X))
try:
    import pandas as pd
except Exception: pd = None
extra("ct_df", lambda: ColumnTransformer([('a', StandardScaler(), ['u', 'v']), ('b', 'passthrough', make_column_selector(dtype_include='number'))]).fit(pd.DataFrame(X, columns=list('uvwx'))))
extra("fit_df", lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(pd.DataFrame(X, columns=list('uvwx')), pd.Series(yc)))
extra("stack", lambda: StackingClassifier([('a', LogisticRegression()), ('b', RandomForestClassifier(3))]).fit(X, yc))
extra("vote", lambda: VotingClassifier([('a', LogisticRegression()), ('b', SVC())]).fit(X, yc))
extra("sparse_svc", lambda: SVC().fit(sp.csr_matrix(X), yc))
for f in ('csr_matrix', 'csc_matrix', 'coo_matrix', 'dok_matrix', 'lil_matrix', 'dia_matrix', 'bsr_matrix', 'csr_array', 'csc_array', 'coo_array', 'dok_array', 'lil_array', 'dia_array', 'bsr_array'):
    if hasattr(sp, f): extra(f, lambda: getattr(sp, f)(np.eye(3)))
extra("bunch", lambda: datasets.load_iris())
extra("random_states", lambda: [np.random.RandomState(1), np.random.default_rng(1), np.random.get_state()])
extra("bitgens", lambda: [np.random.Generator(g(1)) for g in (np.random.MT19937, np.random.PCG64, np.random.Philox, np.random.SFC64)] + [np.random.SeedSequence(1)])
extra("rs_estimator", lambda: RandomForestClassifier(2, random_state=np.random.RandomState(0), max_depth=2).fit(X, yc))
extra("np_values", lambda: [np.float32(1), np.int64(2), np.bool_(True), np.str_('x'), np.bytes_(b'x'), np.datetime64('2020-01-01'), np.timedelta64(1, 's'), np.complex64(1j), np.void(b'abc'), np.array(['a', 'b']), np.array(['a', None], dtype=object), np.zeros(2, dtype=[('a', 'i4'), ('b', 'f8', (2,))]), np.ma.array([1, 2], mask=[0, 1]), np.matrix([[1]]), np.rec.array([(1, 2.)], dtype=[('a', 'i4'), ('b', 'f8')]), np.asfortranarray(np.zeros((2, 3))), np.zeros(2, '>f4'), np.poly1d([1, 2]), np.dtype('f4'), np.float64, np.ndarray, np.log, np.mean])
from scipy.interpolate import interp1d
extra("isotonic", lambda: __import__('sklearn.isotonic').isotonic.IsotonicRegression().fit(X[:, 0], yr))
for i in range(3):
    pass
try:
    import scipy.interpolate as si
    for n in ('interp1d', 'UnivariateSpline', 'CubicSpline', 'PchipInterpolator', 'Akima1DInterpolator', 'RegularGridInterpolator', 'BSpline'):
        if n == 'BSpline': extra("scipy_" + n, lambda: si.make_interp_spline(np.arange(8.), np.arange(8.)))
        elif n == 'RegularGridInterpolator': extra("scipy_" + n, lambda: si.RegularGridInterpolator((np.arange(3.),), np.arange(3.)))
        else: extra("scipy_" + n, lambda: getattr(si, n)(np.arange(8.), np.arange(8.)))
    import scipy.spatial
    extra("scipy_ckdtree", lambda: scipy.spatial.cKDTree(X))
    extra("scipy_kdtree", lambda: scipy.spatial.KDTree(X))
    extra("scipy_rotation", lambda: scipy.spatial.transform.Rotation.from_quat([0,0,0,1]))
except Exception as e: print(e)
# pandas
def frames():
    yield "df", pd.DataFrame({'a': [1, 2], 'b': [1., 2.], 'c': ['x', 'y'], 'd': pd.to_datetime(['2020-01-01', '2021-01-01']), 'e': pd.Categorical(['u', 'v']), 'f': [True, False]})
    yield "series", pd.Series([1, 2, 3], name='s')
    yield "multi", pd.DataFrame({'a': [1, 2]}, index=pd.MultiIndex.from_tuples([(1, 'a'), (2, 'b')]))
    yield "dates", pd.DataFrame({'a': [1, 2]}, index=pd.date_range('2020', periods=2, tz='UTC'))
    yield "nullable", pd.DataFrame({'a': pd.array([1, None], dtype='Int64'), 'b': pd.array(['x', None], dtype='string'), 'c': pd.array([True, None], dtype='boolean')})
    yield "values", [pd.Timestamp('2020'), pd.Timedelta('1d'), pd.Period('2020-01'), pd.Interval(0, 1), pd.NaT, pd.NA, pd.Timestamp('2020', tz='Europe/Berlin'), pd.DateOffset(days=1), pd.offsets.MonthEnd(), pd.period_range('2020', periods=2), pd.interval_range(0, 2), pd.timedelta_range('1d', periods=2), pd.RangeIndex(3), pd.Index(['a']), pd.CategoricalDtype(['a'])]
    yield "sparse", pd.DataFrame({'a': pd.arrays.SparseArray([0, 1])})
for g in ([frames()] if pd else []):
    while True:
        try: n, v = next(g)
        except StopIteration: break
        except Exception as e: print("no frame", e, file=sys.stderr); break
        made.append(("pd_" + n, v))
try:
    import xgboost
    extra("xgb_c", lambda: xgboost.XGBClassifier(n_estimators=2, max_depth=2).fit(X, yc))
    extra("xgb_r", lambda: xgboost.XGBRegressor(n_estimators=2, max_depth=2, eval_metric='rmse', callbacks=[xgboost.callback.EarlyStopping(2)]).fit(X, yr, eval_set=[(X, yr)]))
    extra("xgb_rank", lambda: xgboost.XGBRanker(n_estimators=2, max_depth=2).fit(X, yb, group=[30]))
    extra("xgb_b", lambda: xgboost.train({'max_depth': 2}, xgboost.DMatrix(X, label=yr), 2))
    extra("xgb_rf", lambda: xgboost.XGBRFClassifier(n_estimators=2, max_depth=2).fit(X, yc))
except ImportError: pass
try:
    import lightgbm
    extra("lgb_c", lambda: lightgbm.LGBMClassifier(n_estimators=2, max_depth=2, min_child_samples=2).fit(X, yc))
    extra("lgb_r", lambda: lightgbm.LGBMRegressor(n_estimators=2, max_depth=2, min_child_samples=2).fit(X, yr))
    extra("lgb_rank", lambda: lightgbm.LGBMRanker(n_estimators=2, max_depth=2, min_child_samples=2).fit(X, yb, group=[30]))
    extra("lgb_b", lambda: lightgbm.train({'min_data_in_leaf': 2, 'verbose': -1}, lightgbm.Dataset(X, label=yr), 2))
except ImportError: pass
try:
    import catboost
    extra("cat_c", lambda: catboost.CatBoostClassifier(iterations=2, depth=2, verbose=0, allow_writing_files=False).fit(X, yc))
    extra("cat_r", lambda: catboost.CatBoostRegressor(iterations=2, depth=2, verbose=0, allow_writing_files=False).fit(X, yr))
except ImportError: pass
n = 0
for i, (name, est) in enumerate(made):
    for p in range(pickle.HIGHEST_PROTOCOL + 1):
        try: b = pickle.dumps(est, p)
        except Exception as e:
            print("no dump", name, p, repr(e)[:80], file=sys.stderr); continue
        open("%s/%s.p%d.pkl" % (out, name, p), "wb").write(b); n += 1
    try:
        joblib.dump(est, "%s/%s.joblib" % (out, name)); n += 1
        if i % 12 == 0:
            for c in ('zlib', 'gzip', 'bz2', 'xz', 'lzma', 'lz4'):
                try: joblib.dump(est, "%s/%s.%s.joblib" % (out, name, c), compress=(c, 3)); n += 1
                except Exception as e: print("no joblib", c, e, file=sys.stderr)
    except Exception as e: print("no joblib", name, repr(e)[:80], file=sys.stderr)
print(sklearn.__version__, len(made), "estimators", n, "files")
