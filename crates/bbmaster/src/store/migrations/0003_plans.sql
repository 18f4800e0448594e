-- The hash of the plan that the host must still have to take the desired state; NULL: any.
ALTER TABLE desired ADD COLUMN only_if_plan TEXT;
