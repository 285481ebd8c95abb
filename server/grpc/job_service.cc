#include "server/grpc/job_service.h"

#include "server/grpc/converters.h"
#include "server/grpc/watch_stream.h"

namespace qamserve {
namespace {

constexpr CallName JobCall(std::string_view method) { return {"JobService", method}; }

absl::Status Fill(const absl::StatusOr<JobView>& view, v1::Job* response) {
  if (view.ok()) *response = ToProto(*view);
  return view.status();
}

// What a request does not say: a job belongs to the key that asks for it, unless it names another project.
template <typename Args>
void FillFromCall(const CallGuard& guard, Args& args) {
  if (args.project.empty()) args.project = guard.caller().key();
  args.trace_parent = guard.trace_parent();
}

}  // namespace

grpc::ServerUnaryReactor* JobServiceImpl::CreateQuantizeJob(grpc::CallbackServerContext* call,
                                                            const v1::CreateQuantizeJobRequest* request,
                                                            v1::Job* response) {
  return AnswerOn(
      context_.slow, context_, call, JobCall("CreateQuantizeJob"),
      [this, request, response](const CallGuard& guard) -> absl::Status {
        if (!request->load_as().empty()) {
          RETURN_IF_ERROR(guard.CheckScope(Scope::kAdmin, "load_as, which loads a model,"));
        }
        ASSIGN_OR_RETURN(CreateQuantizeJobArgs args, QuantizeArgsFromProto(*request));
        FillFromCall(guard, args);
        const absl::StatusOr<JobView> view = context_.jobs.CreateQuantizeJob(args);
        // A job that was done before ends without a notice.
        if (view.ok() && !args.validate_only && !args.load_as.empty() && view->job.state == JobState::kSucceeded) {
          context_.see_to_load_wishes();
        }
        return Fill(view, response);
      },
      {request, response});
}

grpc::ServerUnaryReactor* JobServiceImpl::CreateEvaluateJob(grpc::CallbackServerContext* call,
                                                            const v1::CreateEvaluateJobRequest* request,
                                                            v1::Job* response) {
  return AnswerOn(context_.slow, context_, call, JobCall("CreateEvaluateJob"),
                  [this, request, response](const CallGuard& guard) -> absl::Status {
                    ASSIGN_OR_RETURN(CreateEvaluateJobArgs args, EvaluateArgsFromProto(*request));
                    FillFromCall(guard, args);
                    return Fill(context_.jobs.CreateEvaluateJob(args), response);
                  },
                  {request, response});
}

grpc::ServerUnaryReactor* JobServiceImpl::CreateStudyJob(grpc::CallbackServerContext* call,
                                                         const v1::CreateStudyJobRequest* request, v1::Job* response) {
  return AnswerOn(context_.slow, context_, call, JobCall("CreateStudyJob"),
                  [this, request, response](const CallGuard& guard) -> absl::Status {
                    ASSIGN_OR_RETURN(CreateQuantizeJobArgs args, StudyArgsFromProto(*request));
                    FillFromCall(guard, args);
                    return Fill(context_.jobs.CreateStudyJob(args), response);
                  },
                  {request, response});
}

grpc::ServerUnaryReactor* JobServiceImpl::GetStudy(grpc::CallbackServerContext* call,
                                                   const v1::GetStudyRequest* request, v1::StudyTable* response) {
  return AnswerOn(context_.slow, context_, call, JobCall("GetStudy"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string id, ParseResourceName("jobs", request->job()));
    ASSIGN_OR_RETURN(const Study study, context_.jobs.GetStudy(id));
    response->set_job(request->job());
    switch (request->format()) {
      case v1::STUDY_FORMAT_UNSPECIFIED:
      case v1::STUDY_FORMAT_JSON:
        response->set_content(StudyJson(study));
        response->set_content_type("application/json");
        return absl::OkStatus();
      case v1::STUDY_FORMAT_CSV:
        response->set_content(StudyCsv(study));
        response->set_content_type("text/csv");
        return absl::OkStatus();
      case v1::STUDY_FORMAT_HTML:
        response->set_content(StudyHtml(study));
        response->set_content_type("text/html; charset=utf-8");
        return absl::OkStatus();
      default:
        return InvalidArgument("STUDY_FORMAT", "format {} is not one that this server knows",
                               static_cast<int>(request->format()));
    }
  });
}

grpc::ServerUnaryReactor* JobServiceImpl::GetJob(grpc::CallbackServerContext* call, const v1::GetJobRequest* request,
                                                 v1::Job* response) {
  return AnswerOn(context_.quick, context_, call, JobCall("GetJob"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string id, ParseResourceName("jobs", request->name()));
    return Fill(context_.jobs.GetJob(id), response);
  });
}

grpc::ServerUnaryReactor* JobServiceImpl::ListJobs(grpc::CallbackServerContext* call,
                                                   const v1::ListJobsRequest* request, v1::ListJobsResponse* response) {
  return AnswerOn(context_.quick, context_, call, JobCall("ListJobs"), [this, request, response]() -> absl::Status {
    JobFilter filter;
    ASSIGN_OR_RETURN(filter.state, JobStateFromProto(request->state()));
    ASSIGN_OR_RETURN(const Page<JobView> page,
                     context_.jobs.ListJobs(PageFromProto(request->page_size(), request->page_token()), filter));
    for (const JobView& view : page.items) *response->add_jobs() = ToProto(view);
    response->set_next_page_token(page.next_page_token);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::Job>* JobServiceImpl::WatchJob(grpc::CallbackServerContext* call,
                                                            const v1::WatchJobRequest* request) {
  return StartWatchStream(context_, *call, request->name());
}

grpc::ServerUnaryReactor* JobServiceImpl::CancelJob(grpc::CallbackServerContext* call,
                                                    const v1::CancelJobRequest* request, v1::Job* response) {
  return AnswerOn(context_.quick, context_, call, JobCall("CancelJob"),
                  [this, request, response]() -> absl::Status {
                    ASSIGN_OR_RETURN(const std::string id, ParseResourceName("jobs", request->name()));
                    return Fill(context_.jobs.CancelJob(id, request->request_id()), response);
                  },
                  {request, response});
}

grpc::ServerUnaryReactor* JobServiceImpl::RetryJob(grpc::CallbackServerContext* call,
                                                   const v1::RetryJobRequest* request, v1::Job* response) {
  return AnswerOn(context_.quick, context_, call, JobCall("RetryJob"),
                  [this, request, response]() -> absl::Status {
                    ASSIGN_OR_RETURN(const std::string id, ParseResourceName("jobs", request->name()));
                    return Fill(context_.jobs.RetryJob(id, request->request_id()), response);
                  },
                  {request, response});
}

grpc::ServerUnaryReactor* JobServiceImpl::DeleteJob(grpc::CallbackServerContext* call,
                                                    const v1::DeleteJobRequest* request, v1::DeleteJobResponse*) {
  return AnswerOn(context_.slow, context_, call, JobCall("DeleteJob"),
                  [this, request]() -> absl::Status {
                    ASSIGN_OR_RETURN(const std::string id, ParseResourceName("jobs", request->name()));
                    return context_.jobs.DeleteJob(id, request->request_id());
                  },
                  {request});
}

}  // namespace qamserve
