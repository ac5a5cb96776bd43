#include "cli/command.h"

int main(int argc, char** argv) { return fathom::cli::main_with(argc, argv); }
