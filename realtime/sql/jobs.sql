-- Background jobs, through the functions of the job library's own schema.

-- name: defer
-- Queue a job in the caller's transaction: it is there once that has committed, and not otherwise.
SELECT procrastinate_defer_jobs_v1(ARRAY[
    ROW($1, $2, 0, NULL, NULL, $3::text::jsonb, CASE WHEN $4 > 0 THEN now() + $4 * interval '1 second' END)
        ::procrastinate_job_to_defer_v1
]);
