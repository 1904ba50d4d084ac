package local

import (
	"path/filepath"
	"strconv"

	"portico/internal/compute"
	"portico/internal/inference"
	"portico/internal/online"
)

// threadVariables size the thread pools of numeric libraries: OpenMP, the BLAS implementations, numexpr.
var threadVariables = []string{
	"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
	"NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS",
}

const systemPath = "/usr/local/bin:/usr/bin:/bin"

// environment is all that a worker inherits; nothing of the server's own is in it. The deployment's variables
// come over the engine's defaults, except for those by which the engine tells the worker what it runs and where
// it may write. The names are those of Azure's inference server.
func environment(t *compute.Template, instance, scratch string, machineCPUs int, gpus []int) map[string]online.Secret {
	threads := strconv.Itoa(threadsPerWorker(t, machineCPUs))
	env := map[string]online.Secret{
		"PATH":                    online.Secret(searchPath(t)),
		"LANG":                    "C.UTF-8",
		"PYTHONUNBUFFERED":        "1",
		"PYTHONDONTWRITEBYTECODE": "1", // code and environment are read-only
		"HOSTNAME":                online.Secret(instance),
		"CUDA_VISIBLE_DEVICES":    online.Secret(deviceList(gpus)),
	}
	for _, name := range threadVariables {
		env[name] = online.Secret(threads)
	}
	for name, value := range t.Variables {
		env[name] = value
	}
	env["AML_APP_ROOT"] = online.Secret(appRoot(t, scratch))
	env["AZUREML_ENTRY_SCRIPT"] = online.Secret(t.ScoringScript)
	delete(env, inference.VariableMLflow) // it is what chooses between a script and a model
	if t.MLflowModel != "" {
		env[inference.VariableMLflow] = online.Secret(t.MLflowModel)
	}
	delete(env, inference.VariableBatching)
	if t.Batching != nil {
		env[inference.VariableBatching] = "true"
	}
	if t.Headerless {
		env[inference.VariableHeaderless] = "1"
	}
	if t.Server == nil {
		env["WORKER_COUNT"] = online.Secret(strconv.Itoa(t.Workers))
	}
	if t.ONNX != nil {
		env[inference.VariableONNXModel] = online.Secret(t.ONNX.File)
		env[inference.VariableONNXName] = online.Secret(t.ONNX.Name)
		env[inference.VariableONNXVersion] = online.Secret(t.ONNX.Version)
		env[inference.VariableONNXDeclared] = online.Secret(t.ONNX.Declared)
	}
	env["HOME"] = online.Secret(scratch)
	env["TMPDIR"] = online.Secret(scratch)
	if t.ModelDir != "" {
		env["AZUREML_MODEL_DIR"] = online.Secret(t.ModelDir)
	}
	return env
}

// searchPath is where programs are looked for.
func searchPath(t *compute.Template) string {
	if t.Python == "" {
		return systemPath
	}
	return filepath.Dir(t.Python) + ":" + systemPath
}

// appRoot is the folder of the code and the working directory. Without code it is the worker's own scratch: MLflow, and
// models, write beside themselves.
func appRoot(t *compute.Template, scratch string) string {
	if t.MLflowModel != "" || t.CodeDir == "" {
		return scratch
	}
	return t.CodeDir
}

// threadsPerWorker shares the processors of the instance type, as far as the machine has them, among the workers.
func threadsPerWorker(t *compute.Template, machineCPUs int) int {
	return max(min(t.Type.CPUs, machineCPUs)/max(t.Workers, 1), 1)
}

func deviceList(gpus []int) string {
	text := ""
	for i, g := range gpus {
		if i > 0 {
			text += ","
		}
		text += strconv.Itoa(g)
	}
	return text
}
