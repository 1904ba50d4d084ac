package environment

import "strings"

// sameName lists conda packages that the Python index has under the same name and with the same versions. A name is
// here only when the two are the same software: a C library that happens to share its name with a Python package
// (graphviz, snappy, hdf5) is not.
var sameName = wordSet(`
	absl-py accelerate aiohttp alembic altair annotated-types anyio arviz asgiref astropy attrs autograd
	azure-ai-ml azure-core azure-identity azure-storage-blob azureml-core azureml-defaults azureml-inference-server-http
	beautifulsoup4 bokeh boto3 botocore cachetools catboost certifi cffi charset-normalizer click cloudpickle colorama
	coloredlogs contourpy cryptography cycler cython dask datasets decorator defusedxml dill diskcache distributed
	django einops evaluate fairlearn faiss-cpu fastapi fastparquet feature_engine filelock flask flatbuffers fonttools
	frozenlist fsspec gensim geopandas gevent gitpython google-auth grpcio gunicorn h11 h5py holidays httpcore httptools
	httpx huggingface_hub hyperopt idna imageio imbalanced-learn importlib-metadata importlib_metadata
	importlib-resources importlib_resources inference-schema interpret ipykernel ipython isodate itsdangerous jax jinja2
	jmespath joblib jsonschema keras kiwisolver lightgbm lime llvmlite lxml markdown markupsafe matplotlib mlflow
	mlflow-skinny mlxtend mpmath multidict mypy_extensions narwhals natsort netcdf4 networkx nltk numba numexpr numpy
	onnx onnxmltools onnxruntime openai opencensus openpyxl opentelemetry-api opentelemetry-sdk optuna orjson packaging
	pandas pandera partd patsy pillow pip platformdirs plotly polars prettytable prophet protobuf psutil pyarrow pyasn1
	pycparser pydantic pydantic-core pygments pyjwt pymongo pymysql pyod pyodbc pyparsing pyproj pyspark pytest
	python-dateutil python-dotenv python-json-logger python-multipart pytorch-lightning pytz pywavelets pyyaml rasterio
	rdkit regex requests requests-oauthlib responses rich rpds-py ruamel.yaml s3fs s3transfer sacremoses safetensors
	scikit-image scikit-learn scikit-learn-intelex scipy seaborn sentence-transformers sentencepiece setuptools shap shapely simplejson six
	skl2onnx slicer smart_open sniffio sortedcontainers soupsieve spacy sqlalchemy sqlparse starlette statsmodels sympy
	tabulate tenacity tensorboard tensorflow tensorflow-cpu termcolor textblob thinc threadpoolctl tifffile tiktoken timm tokenizers toml
	tomli toolz torchaudio torchmetrics torchvision tornado tqdm transformers tsfresh typer typing-extensions
	typing_extensions tzlocal ujson umap-learn urllib3 uvicorn uvloop waitress wandb wasabi websockets werkzeug wheel
	wrapt xarray xgboost xlrd xlsxwriter yarl zipp
`)

// otherName maps conda packages whose name on the Python index differs.
var otherName = map[string]string{
	"bottleneck":         "Bottleneck",
	"brotli-python":      "Brotli",
	"category_encoders":  "category-encoders",
	"dask-core":          "dask",
	"matplotlib-base":    "matplotlib",
	"msgpack-python":     "msgpack",
	"opencv":             "opencv-python-headless",
	"plotnine-base":      "plotnine",
	"psycopg2":           "psycopg2-binary",
	"py-lightgbm":        "lightgbm",
	"py-opencv":          "opencv-python-headless",
	"py-xgboost":         "xgboost",
	"py-xgboost-cpu":     "xgboost",
	"pyarrow-core":       "pyarrow",
	"pytables":           "tables",
	"python-duckdb":      "duckdb",
	"python-flatbuffers": "flatbuffers",
	"python-graphviz":    "graphviz",
	"python-tzdata":      "tzdata",
	"python-xxhash":      "xxhash",
	"pytorch":            "torch",
	"pytorch-cpu":        "torch",
	"redis-py":           "redis",
	"seaborn-base":       "seaborn",
	"tensorflow-base":    "tensorflow",
}

// indexName gives the name that a conda package has on the Python index, if it is known to have one.
func indexName(conda string) (string, bool) {
	if name, ok := otherName[conda]; ok {
		return name, true
	}
	if sameName[conda] {
		return conda, true
	}
	return "", false
}

func wordSet(text string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(text) {
		set[w] = true
	}
	return set
}
