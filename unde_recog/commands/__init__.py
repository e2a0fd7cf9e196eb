"""The commands of `unde-recog`, a module each."""
