// Programs that do not run as root, started by a test that may be root.
#pragma once

#include <pwd.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

// The user to run as where this process is root: PostgreSQL's of the system, or nobody. Null where it is not.
const passwd* OtherUser();

// A new folder with a short name (the path of a socket has 107 bytes at most) that belongs to that user.
absl::StatusOr<std::string> MakeSharedFolder();

// Starts a program, as that user, with its output in the file `output`. It gets SIGQUIT when the thread that started it
// ends.
pid_t Spawn(const std::vector<std::string>& command, const std::string& output);

// Runs a program to its end and returns what it printed. INTERNAL if that was no success.
absl::StatusOr<std::string> RunProgram(const std::vector<std::string>& command, const std::string& output);

std::string FileContents(const std::string& path);
// The end of a text that may be long.
std::string Tail(const std::string& text);

}  // namespace qamserve
