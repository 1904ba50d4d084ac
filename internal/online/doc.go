// Package online is the domain of Portico: endpoints, deployments, instances, traffic, assets, operations and
// the one error type, with their defaults, limits and validation.
//
// It owns what these words mean and which values are allowed. It never reads a clock, a file or a network, and
// it imports no other package of this module. Names, defaults and limits follow Azure Machine Learning's
// managed online endpoints, so that the wire (package arm) is a translation and not an interpretation.
package online
