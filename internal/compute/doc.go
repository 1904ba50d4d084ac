// Package compute is the seam to whatever runs instances: processes on this machine, pods of a cluster.
//
// A set is one immutable generation of a deployment: every instance of it runs the same template. Inside a set
// the engine schedules, heals and tells what it sees; across sets only reconcile moves counts. The package owns
// the Backend interface and its data; computetest proves an engine. It never decides what should run.
package compute
