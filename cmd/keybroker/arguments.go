package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageForArgs has wrong arguments be errors of usage that say what is wanted,
// for all commands.
func usageForArgs(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		usageForArgs(c)
	}
	switch {
	case cmd.HasSubCommands():
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		}
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	case cmd.Name() == "help" && cmd.HasParent() && !cmd.Parent().HasParent():
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			at, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(at, append(rest, args...)[0])
			}
			return nil
		}
	case cmd.Args != nil:
		check := cmd.Args
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			return wrongArguments(cmd, args, check(cmd, args))
		}
	}
}

// unknownCommand is the error for a word after cmd that is no command.
func unknownCommand(cmd *cobra.Command, word string) error {
	hint := fmt.Sprintf("see `%s --help`", cmd.CommandPath())
	if similar := cmd.SuggestionsFor(word); len(similar) > 0 {
		hint = fmt.Sprintf("did you mean %q?", similar[0])
	}
	return usageError(fmt.Errorf("unknown command %q; %s", word, hint))
}

// wrongArguments is err of a check of args, if there is one. Of too few or too many
// it says by the command's line of usage which.
func wrongArguments(cmd *cobra.Command, args []string, err error) error {
	if err == nil {
		return nil
	}
	required, optional := placeholders(cmd)
	what := err.Error()
	switch {
	case !countsArguments(err):
	case len(args) < len(required):
		what = strings.Join(required[len(args):], " and ") + " is missing"
		if len(required)-len(args) > 1 {
			what = strings.Join(required[len(args):], " and ") + " are missing"
		}
	case cmd.Flags().Lookup("config") != nil:
		what = fmt.Sprintf("%q is an argument too many; name the file with -c", args[0])
	case len(args) > len(required)+len(optional):
		what = fmt.Sprintf("%q is an argument too many", args[len(required)+len(optional)])
	}
	return usageError(fmt.Errorf("%s; see `%s --help`", what, cmd.CommandPath()))
}

// countsArguments tells whether err is of one of cobra's own checks, which count.
func countsArguments(err error) bool {
	for _, beginning := range []string{"unknown command ", "accepts ", "requires "} {
		if strings.HasPrefix(err.Error(), beginning) {
			return true
		}
	}
	return false
}

// placeholders are the arguments in a command's line of usage. Those of flags are
// not among them.
func placeholders(cmd *cobra.Command) (required, optional []string) {
	words := strings.Fields(cmd.Use)[1:]
	for i, word := range words {
		switch {
		case i > 0 && strings.HasPrefix(words[i-1], "--"), strings.HasPrefix(word, "--"), word == "|":
		case strings.HasPrefix(word, "["):
			optional = append(optional, strings.Trim(word, "[]."))
		case len(words) > i+1 && words[i+1] == "|":
			optional = append(optional, word)
		default:
			required = append(required, strings.Trim(word, "."))
		}
	}
	return required, optional
}

// flagError is an error of reading flags in terms of this program.
func flagError(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	wants := map[string]string{
		"uint32": "a whole number", "uint64": "a whole number", "bool": "true or false", "duration": "a time with its unit, such as 15s",
	}
	flag := invalid.GetFlag()
	want, ok := wants[flag.Value.Type()]
	if !ok {
		return err
	}
	return fmt.Errorf("--%s %q: want %s", flag.Name, invalid.GetValue(), want)
}
