package secret

// NoSwapIn is noSwapIn, whose root is a mount that a test cannot make.
var NoSwapIn = noSwapIn
