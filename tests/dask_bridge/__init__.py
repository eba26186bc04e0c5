"""A package, so that its fixtures of the scope `package` end with it: idle servers slow down what comes after."""
