// Package mlflow reads models that MLflow saved: where the MLmodel file lies in a tree, which flavors it offers and
// which Python environment the model asks for.
//
// It owns the reading of MLmodel, conda.yaml, python_env.yaml and requirements.txt, and the rules by which they become
// an environment. It never runs Python, never writes, and never follows a link out of the tree that it is given.
package mlflow
