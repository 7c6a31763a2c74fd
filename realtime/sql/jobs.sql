-- Background jobs, through the functions of the job library's own schema.

-- name: defer
-- Queue jobs of one kind in the caller's transaction: they are there once that has committed, and not otherwise.
SELECT procrastinate_defer_jobs_v1(array_agg(
    ROW($1, $2, 0, NULL, NULL, args::jsonb, CASE WHEN $4 > 0 THEN now() + $4 * interval '1 second' END)
        ::procrastinate_job_to_defer_v1
)) FROM unnest($3::text[]) AS args;
