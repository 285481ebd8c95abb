// Prints /openapi.json of a process with all services.
#include <cstdio>

#include "qamserve/v1/access.pb.h"
#include "qamserve/v1/artifact.pb.h"
#include "qamserve/v1/checkpoint.pb.h"
#include "qamserve/v1/inference.pb.h"
#include "qamserve/v1/job.pb.h"
#include "qamserve/v1/serving.pb.h"
#include "qamserve/v1/system.pb.h"
#include "server/http/rest/openapi.h"

int main() {
  std::vector<std::string> services;
  for (const auto* message :
       {qamserve::v1::Key::descriptor(), qamserve::v1::Artifact::descriptor(), qamserve::v1::Upload::descriptor(),
        qamserve::v1::Usage::descriptor(), qamserve::v1::Job::descriptor(), qamserve::v1::Alias::descriptor(),
        qamserve::v1::System::descriptor()}) {
    for (int i = 0; i < message->file()->service_count(); ++i)
      services.push_back(message->file()->service(i)->full_name());
  }
  const auto routes = qamserve::RouteTable::Create(services);
  if (!routes.ok()) return 1;
  const auto document = qamserve::rest::OpenApiDocument(*routes, "0.0.0");
  if (!document.ok()) return 1;
  std::puts(document->c_str());
  return 0;
}
