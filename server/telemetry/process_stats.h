// What the system tells of this process: memory, time, open files.
#pragma once

#include <optional>
#include <string>

#include "server/telemetry/metrics.h"

namespace qamserve {

// When this process began, in seconds since 1970. Asked for once: the system works it out of clocks that are adjusted,
// and a start that moves would look like another one. No value if the system does not tell.
std::optional<double> ProcessStartTime();

// All but that. What the system does not tell stays unset.
void WriteProcessStats(Metrics::GaugeWriter& writer);

// Size and free bytes of the file system that holds `path`.
void WriteDiskStats(const std::string& path, Metrics::GaugeWriter& writer);

}  // namespace qamserve
